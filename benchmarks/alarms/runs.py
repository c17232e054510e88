"""The runs of the benchmark, by the commands of the framework: ladder, fit, sealed predictions, and training.

WORK/ladder, WORK/fit.json   the proxies, and the law that was fitted to them
WORK/predictions/SEED.json   the sealed prediction of the target with a seed, which a run of another seed may not use
WORK/runs/NAME               the run folders

What is there is not made again.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.alarms.judge import of_run
from benchmarks.alarms.plan import Plan, Planned
from benchmarks.predictions.commands import BASE, corpus, foretrain, train_all
from benchmarks.predictions.plan import ladder_flops, overrides, target_config
from foretrain.configs import load as configs
from foretrain.configs.schema import Config
from foretrain.scaling.prediction.record import FitRecord, PredictionRecord
from foretrain.trainer.metrics import METRICS_FILE, read_metrics
from foretrain.trainer.model.size import ModelSize
from foretrain.trainer.prediction.curve import PredictedCurve
from foretrain.trainer.run.folder import CONFIG_FILE

PLUGIN = "benchmarks.alarms.bugs"


@dataclass(frozen=True)
class Bench:
    """The benchmark, and the folder in which it works."""

    plan: Plan
    work: Path

    @cached_property
    def target(self) -> Config:
        """The config of the target. Its corpus is prepared if it is not there."""
        family, vocab_size = self.plan.family, self.plan.vocab_size
        data = corpus(family.corpus, vocab_size, self.work)
        shared = configs.load(str(BASE), [*overrides(family, "mup", str(data)), *self.plan.overrides])
        shared = replace(shared, model=replace(shared.model, vocab_size=vocab_size))
        found = target_config(family, family.widths[0], shared, self.plan.frozen.batch)
        return replace(found, run_dir=str(self.work / "target"))

    @property
    def widths(self) -> tuple[list[int], int]:
        """The widths of the proxies, and that of the target."""
        return list(self.plan.family.proxies), self.plan.family.widths[0]

    @property
    def ladder(self) -> Path:
        """The folder of the proxies."""
        return self.work / "ladder"

    @property
    def fit(self) -> Path:
        """The fit of the proxies."""
        return self.work / "fit.json"

    def climb(self) -> None:
        """Train the ladder and fit the law, if there is no fit yet."""
        if self.fit.exists():
            return
        plan, target = self.plan, self.work / "target.yaml"
        configs.save(self.target, target)
        options = {
            "--budget": ladder_flops(plan.family, self.target, plan.frozen),
            "--points": len(plan.family.proxies),
            "--seeds": plan.num_ladder_seeds,
            "--min-width": min(plan.family.proxies),
            "--batch": plan.frozen.batch,
            "--jobs": 1,
            "--out": self.ladder,
        }
        foretrain("ladder", str(target), *(str(part) for option in options.items() for part in option))
        foretrain("fit", str(self.ladder), "--law", self.plan.law, "--out", str(self.fit))

    def sealed(self, seed: int) -> Path:
        """The sealed prediction of the target with a seed, which is made if it is not there."""
        path = self.work / "predictions" / f"{seed}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            config, fit = self._config(Planned("target", seed)), str(self.fit)
            foretrain("predict", str(config), "--fit", fit, "--out", str(path), *_seed(seed), quiet=True)
        return path

    def flops(self, run: Planned) -> float:
        """FLOPs of a run."""
        config = configs.load(str(self._config(run)))
        return float(ModelSize.of(config.model).flops_per_token * config.train.num_tokens)

    def run(self, run: Planned) -> dict[str, Any]:
        """Train a run in a process of its own, and return its line of the results. Raises RuntimeError if it fails."""
        folder = self.work / "runs" / run.name
        settings = [f"run_dir={folder}", *_seed(run.seed)]
        if run.bug is not None:
            settings += [f"plugins=[{PLUGIN}]", f"train.callbacks=[{run.bug.label}]"]
        if run.size == "target":
            settings.append(f"train.prediction={self.sealed(run.seed)}")
        logs, statuses = self.work / "logs", list[int]()
        command = {run.name: ["train", str(self._config(run)), *settings]}
        train_all(command, 1, logs, lambda _, status: statuses.append(status))
        if statuses != [0]:
            raise RuntimeError(f"{run.name} ended with status {statuses[0]}: see {logs / run.name}.log")
        return {"kind": "run", **self._named(run), **self._measured(run, folder)}

    def _measured(self, run: Planned, folder: Path) -> dict[str, Any]:
        """What a run that has ended measured, and what was said of it."""
        curve = None
        if run.size == "target":
            curve = PredictedCurve.of(PredictionRecord.read(self.sealed(run.seed)).curve)
        return {"C": self.flops(run), **of_run(read_metrics(folder / METRICS_FILE), curve)}

    def header(self) -> dict[str, Any]:
        """What the results are of: the first line."""
        fit, prediction = FitRecord.read(self.fit), PredictionRecord.read(self.sealed(self.plan.sound_seeds[0]))
        return {
            "kind": "setup",
            "widths": self.widths[0],
            "target_width": self.widths[1],
            "ladder_seeds": self.plan.num_ladder_seeds,
            "run_std": fit.run_std,
            "proxies": [
                {"name": Path(run["name"]).name, "C": run["C"], "loss": run["loss"], "ratios": ratios}
                for run, ratios in zip(fit.runs, fit.curves["ratios"], strict=True)
            ],
            "ratio": round(prediction.ratio, 2),
            "loss": prediction.loss,
            "intervals": prediction.intervals,
            "curve": prediction.curve,
        }

    @staticmethod
    def _named(run: Planned) -> dict[str, Any]:
        bug = run.bug
        return {
            "run": run.name,
            "size": run.size,
            "seed": run.seed,
            "bug": bug.name if bug else None,
            "strength": bug.strength if bug else None,
        }

    def _config(self, run: Planned) -> Path:
        """The file of the config of a run, but for its seed and its bug."""
        return self.work / "target.yaml" if run.size == "target" else self._largest / CONFIG_FILE

    @property
    def _largest(self) -> Path:
        """A run of the largest proxy, whose config the others have."""
        return self.ladder / "trials" / f"rung-{len(self.plan.family.proxies)}-seed-0"


def _seed(seed: int) -> list[str]:
    return [f"train.seed={seed}", f"data.seed={seed}"]
