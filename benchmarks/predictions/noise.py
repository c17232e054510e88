"""The noise of small runs in several set-ups, and whether their loss falls in one line.

    python -m benchmarks.predictions.noise --out benchmarks/results/predictions/noise.jsonl

Each set-up is a `foretrain ladder` of proxies with several seeds, and one line of the results: the losses of each rung,
the standard deviation of one run between seeds, the slope of log L over log C between neighbouring rungs, and the
back-test of the law. No run is as large as a target of the benchmark. Set-ups that are in the file are not run again.
It takes about a quarter of an hour on two idle cores.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any

import typer

from benchmarks.predictions.commands import BASE, corpus, foretrain
from foretrain.scaling.ladder.rungs import BatchRule
from foretrain.scaling.prediction.record import FitRecord
from foretrain.scaling.records import LADDER_FILE, RESULTS_FILE

app = typer.Typer(add_completion=False)

TARGET_TOKENS = 6_900_000
"""Tokens of the target to which all ladders of the study lead, of 96 or more."""


@dataclass(frozen=True)
class Setup:
    """A set-up of which a ladder is trained."""

    name: str
    overrides: tuple[str, ...] = ()
    corpus: str = "english"
    vocab_size: int = 258
    tokens_per_param: float = 20
    budget_flops: float = 7e11
    num_points: int = 4
    min_width: int = 12
    num_seeds: int = 3
    ratio: float = 2
    warmup_share: float = 0.1
    batch: BatchRule = "sqrt"

    def arguments(self, data: Path, out: Path, jobs: int) -> list[str]:
        """The command that trains its ladder."""
        return [
            *("ladder", str(BASE), "--out", str(out), "--budget", f"{self.budget_flops:g}"),
            *("--points", str(self.num_points), "--seeds", str(self.num_seeds), "--min-width", str(self.min_width)),
            *("--tokens-per-param", f"{self.tokens_per_param:g}", "--batch", self.batch, "--jobs", str(jobs)),
            *("--ratio", f"{self.ratio:g}"),
            f"data.path={data}",
            "model.seq_len=64",
            "model.rope_theta=10000",
            "train.global_batch_size=64",
            "train.micro_batch_size=64",
            "train.eval_samples=1024",
            "optimizer.lr=2^-6",
            f"train.num_tokens={TARGET_TOKENS}",
            f"schedule.warmup_tokens={round(TARGET_TOKENS * self.warmup_share)}",
            *self.overrides,
        ]


HEADS_OF_8 = ("model.num_heads=16",)
LOCAL = ("model.rope_theta=100",)
FAST = (*HEADS_OF_8, *LOCAL, "optimizer.lr=2^-4.5")
WITH_WORDS = ("optimizer.lr=2^-4.5", *LOCAL)
CONTEXT_8 = (
    *WITH_WORDS,
    "model.seq_len=8",
    "train.global_batch_size=512",
    "train.micro_batch_size=512",
    "train.eval_samples=8192",
)
WORDS = Setup("512 tokens", WITH_WORDS, vocab_size=512, tokens_per_param=5, budget_flops=9e11)
CONTEXT = replace(WORDS, name="512 tokens, context 8", overrides=CONTEXT_8)
LARGER = replace(WORDS, budget_flops=1.05e12, min_width=36, num_points=2, num_seeds=1, ratio=3.5)
"""Two rungs, the larger of which is beyond the ladders of the same set-up."""
STEPS_400 = Setup(
    "400 steps",
    (
        *CONTEXT_8,
        "optimizer.lr=0.03",
        "train.num_tokens=1_049_600",
        "train.global_batch_size=328",
        "train.micro_batch_size=328",
        "schedule.warmup_tokens=104_960",
    ),
    vocab_size=512,
    tokens_per_param=2,
    budget_flops=8.1e12,
    min_width=32,
    num_points=6,
    num_seeds=2,
    ratio=2.3,
    batch="linear",
)
"""The batch is in proportion to the tokens, so that runs of all sizes have 400 steps. Widths 32 to 112."""
SETUPS = (
    Setup("base"),
    Setup("5 tokens per parameter", tokens_per_param=5, min_width=20),
    Setup("heads of 8, theta 100", (*HEADS_OF_8, *LOCAL), tokens_per_param=5, min_width=16, budget_flops=9e11),
    Setup("heads of 8, rate 2^-4.5", FAST, tokens_per_param=5, min_width=16, budget_flops=9e11),
    Setup("1,024 tokens", FAST, vocab_size=1024, tokens_per_param=5, min_width=8, budget_flops=1.2e12),
    Setup(
        "1,024 tokens, larger",
        WITH_WORDS,
        vocab_size=1024,
        tokens_per_param=5,
        min_width=24,
        budget_flops=4.2e12,
        num_points=3,
        num_seeds=2,
        ratio=4,
    ),
    replace(WORDS, num_points=6, ratio=1.75),
    replace(LARGER, name="512 tokens, larger"),
    replace(CONTEXT, min_width=8, num_points=7, ratio=1.95),
    *(
        replace(
            LARGER,
            name=f"{CONTEXT.name}, {name}",
            overrides=CONTEXT_8,
            corpus=corpus,
            tokens_per_param=tokens_per_param,
            budget_flops=budget_flops,
        )
        for name, corpus, tokens_per_param, budget_flops in (
            ("larger", "english", 5, 1.05e12),
            ("code, larger", "code", 4, 8.3e11),
            ("headers, larger", "headers", 3, 6.3e11),
        )
    ),
    STEPS_400,
    replace(STEPS_400, name="400 steps, code", corpus="code"),
)


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="File of the results.")] = Path(
        "benchmarks/results/predictions/noise.jsonl"
    ),
    work: Annotated[Path, typer.Option(help="Folder of the corpora and the runs.")] = Path("runs/predictions"),
    only: Annotated[list[str] | None, typer.Option(help="Run only these set-ups.")] = None,
    jobs: Annotated[int, typer.Option(help="Runs at a time.")] = 1,
) -> None:
    """Train the ladders of the set-ups that are not in the results yet, and add a line for each."""
    out.parent.mkdir(parents=True, exist_ok=True)
    known = [json.loads(line) for line in out.read_text("utf-8").splitlines()] if out.exists() else []
    done = {line["setup"] for line in known}
    for setup in SETUPS:
        if setup.name in done or (only and setup.name not in only):
            continue
        data = corpus(setup.corpus, setup.vocab_size, work)
        folder = work / "noise" / setup.name.replace(" ", "_").replace(",", "")
        foretrain(*setup.arguments(data, folder, jobs))
        line = record(setup, folder)
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        typer.echo(summary(line))


def record(setup: Setup, folder: Path) -> dict[str, Any]:
    """The line of a set-up in the results."""
    plan = json.loads((folder / LADDER_FILE).read_text("utf-8"))
    results = [json.loads(line) for line in (folder / RESULTS_FILE).read_text("utf-8").splitlines()]
    loss_of = {result["trial"]: result["val_loss"] for result in results}
    rungs = [
        {
            **{key: rung[key] for key in ("d_model", "num_params", "num_tokens", "num_steps", "lr", "flops")},
            "global_batch_size": rung["global_batch_size"],
            "losses": [loss_of[run["trial"]] for run in rung["runs"]],
        }
        for rung in plan["rungs"]
    ]
    fits = {}
    for law in ("compute", "compute_no_e") if len(rungs) > 2 else ():
        file = folder / f"{law}.json"
        foretrain("fit", str(folder), "--law", law, "--out", str(file), quiet=True)
        fit = FitRecord.read(file)
        fits[law] = {"misfit": fit.misfit, "widening": fit.widening, "reach": fit.reach, "backtest": fit.backtest}
    return {
        "setup": setup.name,
        "overrides": setup.overrides,
        "corpus": setup.corpus,
        "vocab_size": setup.vocab_size,
        "tokens_per_param": setup.tokens_per_param,
        "noise": round(noise([rung["losses"] for rung in rungs]), 5) if setup.num_seeds > 1 else None,
        "slopes": [round(slope, 4) for slope in slopes(rungs)],
        "rungs": rungs,
        "fits": fits,
    }


def noise(losses: Sequence[Sequence[float]]) -> float:
    """The standard deviation of one run's loss between seeds, over the loss, pooled over rungs with as many seeds."""
    return math.sqrt(fmean((stdev(of_rung) / fmean(of_rung)) ** 2 for of_rung in losses))


def slopes(rungs: Sequence[dict[str, Any]]) -> list[float]:
    """How fast the loss falls between neighbouring rungs: minus the slope of log L over log C."""
    return [
        -math.log(fmean(large["losses"]) / fmean(small["losses"])) / math.log(large["flops"] / small["flops"])
        for small, large in pairwise(rungs)
    ]


def summary(line: dict[str, Any]) -> str:
    """A set-up in one line."""
    falls = " ".join(f"{slope:.3f}" for slope in line["slopes"])
    widths = " ".join(str(rung["d_model"]) for rung in line["rungs"])
    last = fmean(line["rungs"][-1]["losses"])
    spread = "noise unknown" if line["noise"] is None else f"noise {line['noise']:.2%}"
    return f"{line['setup']:28} {spread}  slopes {falls}  widths {widths}  loss {last:.4f}"


if __name__ == "__main__":
    app()
