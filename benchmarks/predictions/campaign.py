"""The benchmark under one parametrization: ladders, fits, sealed predictions, runs and scores, each step once.

OUT/mup/fits/FAMILY.json               the proxies' losses and curves, and the law that was fitted to them
OUT/mup/predictions/TARGET.json        a sealed prediction
OUT/mup/predictions/TARGET.score.json  its score
WORK/mup/ladders/FAMILY, WORK/mup/runs/TARGET   the proxies, and the target

What is in OUT is not made again, so that OUT alone continues a benchmark on another machine.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import typer

from benchmarks.predictions.commands import BASE, corpus, foretrain, train_all
from benchmarks.predictions.plan import (
    Family,
    Frozen,
    Parametrization,
    ladder_flops,
    overrides,
    target_config,
)
from foretrain.configs import load as configs
from foretrain.configs.schema import Config
from foretrain.scaling.prediction.record import PredictionRecord, ScoreRecord
from foretrain.trainer.model.size import ModelSize

Say = Callable[[str], None]


@dataclass(frozen=True)
class Target:
    """A run that is predicted."""

    family: Family
    width: int
    config: Config

    @property
    def name(self) -> str:
        """Its name in all folders."""
        return self.family.target_name(self.width)

    @property
    def flops(self) -> int:
        """FLOPs of the run."""
        return ModelSize.of(self.config.model).flops_per_token * self.config.train.num_tokens


@dataclass(frozen=True)
class Campaign:
    """The benchmark under one parametrization."""

    plan: Frozen
    parametrization: Parametrization
    out: Path
    work: Path
    jobs: int
    say: Say

    def fit_file(self, family: Family) -> Path:
        """The fit of a family's proxies."""
        return self.out / self.parametrization / "fits" / f"{family.name}.json"

    def prediction_file(self, name: str) -> Path:
        """The sealed prediction of a target."""
        return self.out / self.parametrization / "predictions" / f"{name}.json"

    def score_file(self, name: str) -> Path:
        """The score of a target's prediction."""
        return self.prediction_file(name).with_suffix(".score.json")

    def run_dir(self, name: str) -> Path:
        """The run folder of a target."""
        return self.work / self.parametrization / "runs" / name

    def targets(self, family: Family) -> list[Target]:
        """The targets of a family, small to large. Its corpus is prepared if it is not there."""
        data = corpus(family.corpus, self.plan.vocab_size, self.work)
        shared = configs.load(str(BASE), [*overrides(family, self.parametrization, str(data)), *self.plan.overrides])
        shared = replace(shared, model=replace(shared.model, vocab_size=self.plan.vocab_size))
        rule = self.plan.batch
        return [Target(family, width, target_config(family, width, shared, rule)) for width in sorted(family.widths)]

    def all_targets(self) -> Iterator[Target]:
        """Yield the targets of all families."""
        for family in self.plan.families:
            yield from self.targets(family)

    def fit_all(self) -> None:
        """Train the ladders that have no fit yet, and fit the law to them."""
        for family in self.plan.families:
            if not self.fit_file(family).exists():
                self.say(f"{self.parametrization}: ladder of {family.name}")
                self._climb(family, self.targets(family)[-1])

    def seal_all(self) -> None:
        """Seal the predictions that do not exist yet."""
        for family in self.plan.families:
            for target in self.targets(family):
                path = self.prediction_file(target.name)
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    config, fit = str(self._config_file(target)), str(self.fit_file(family))
                    foretrain("predict", config, "--fit", fit, "--out", str(path))

    def _climb(self, family: Family, largest: Target) -> None:
        """Train the ladder of a family, and fit the law to it."""
        plan, folder = self.plan, self.work / self.parametrization / "ladders" / family.name
        file = self.fit_file(family)
        file.parent.mkdir(parents=True, exist_ok=True)
        options = {
            "--budget": ladder_flops(family, largest.config, plan),
            "--points": len(family.proxies),
            "--seeds": plan.num_seeds,
            "--min-width": min(family.proxies),
            "--batch": plan.batch,
            "--jobs": self.jobs,
            "--out": folder,
        }
        foretrain(
            "ladder",
            str(self._config_file(largest)),
            *(str(part) for option in options.items() for part in option),
            *(("--allow-standard",) if self.parametrization == "standard" else ()),
        )
        foretrain("fit", str(folder), "--law", plan.law, "--out", str(file))

    def _config_file(self, target: Target) -> Path:
        """The complete config of a target, in a file."""
        path = self.work / self.parametrization / "targets" / f"{target.name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        configs.save(replace(target.config, run_dir=str(self.run_dir(target.name))), path)
        return path

    def unscored(self) -> list[Target]:
        """The targets without a score, those with the least compute first."""
        found = [target for target in self.all_targets() if not self.score_file(target.name).exists()]
        return sorted(found, key=lambda target: target.flops)

    def run(self, targets: Sequence[Target], on_end: Callable[[Target, ScoreRecord], None]) -> None:
        """Train targets, and score each when it has ended. Raises typer.Exit if it is stopped."""
        by_name = {target.name: target for target in targets}
        commands = {
            name: ("train", str(self._config_file(target)), f"train.prediction={self.prediction_file(name)}")
            for name, target in by_name.items()
        }

        def ended(name: str, status: int) -> None:
            if status:
                self.say(f"{name} failed, and is tried again by the next call: see {self._logs / name}.log")
                return
            with suppress(typer.Exit):  # a score that does not count is a score too
                foretrain("score", str(self.run_dir(name)), "--out", str(self.score_file(name)), quiet=True)
            on_end(by_name[name], ScoreRecord.read(self.score_file(name)))

        train_all(commands, self.jobs, self._logs, ended)

    @property
    def _logs(self) -> Path:
        return self.work / self.parametrization / "logs"

    def scored(self) -> dict[str, tuple[PredictionRecord, ScoreRecord]]:
        """The predictions that have a score, by the names of their targets."""
        return {
            target.name: (
                PredictionRecord.read(self.prediction_file(target.name)),
                ScoreRecord.read(self.score_file(target.name)),
            )
            for target in self.all_targets()
            if self.score_file(target.name).exists()
        }
