"""Measure how learning rates transfer: muP over widths, CompleteP over depths, and where neither is used.

    python -m benchmarks.transfer --out benchmarks/results/transfer

Each study is a `foretrain sweep` of the preset runs/mup_proxy on Python's own standard library, byte by byte; what is
done is kept in --work, and a second call goes on. The controls are the standard parametrization over widths, its
initial weights scaled to each width (1 / sqrt(d_model)), and muP, which does not know depth, over depths. About an hour
on two cores; --short, on a part of the library and with half the steps, takes a minute. The status is 1 where a bar
fails.
"""

import json
import platform
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.transfer_plot import plot
from foretrain.data_pipeline.prepare.documents import standard_library
from foretrain.scaling.transfer.study import Drift, study
from foretrain.scaling.transfer.study import Study as Fitted
from foretrain.scaling.transfer.sweep_folder import RESULTS_FILE, Sweep, read_sweep
from foretrain.trainer.environment import code_version
from foretrain.verbs.app import app as command_line

app = typer.Typer(add_completion=False)
console = Console(stderr=True)


@dataclass(frozen=True)
class Bar:
    """What a study must show: a number of its drift, at least or at most."""

    what: str
    """A property of Drift."""
    at_most: float | None = None
    at_least: float | None = None
    of_magnitude: bool = False

    def value(self, drift: Drift) -> float:
        """The number that is held to the bar."""
        value = float(getattr(drift, self.what))
        return abs(value) if self.of_magnitude else value

    def holds(self, drift: Drift) -> bool:
        """Whether it does; a number that is unknown does not."""
        value = self.value(drift)
        return (self.at_most is None or value <= self.at_most) and (self.at_least is None or value >= self.at_least)

    def __str__(self) -> str:
        name = f"|{self.what}|" if self.of_magnitude else self.what
        return f"{name} at most {self.at_most:g}" if self.at_most is not None else f"{name} at least {self.at_least:g}"


@dataclass(frozen=True)
class Study:
    """One ladder of models."""

    name: str
    title: str
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    log2_lrs: tuple[int, int]
    """First and last exponent of 2; every whole one between is tried."""
    seeds: tuple[int, ...]
    overrides: tuple[str, ...] = ()
    scales_init: bool = False
    """Whether each width has initial weights of its own, 1 / sqrt(width)."""
    bars: tuple[Bar, ...] = ()

    @property
    def sweeps(self) -> list[tuple[str, tuple[int, ...], tuple[str, ...]]]:
        """Name, widths and overrides of each sweep that it takes."""
        if not self.scales_init:
            return [(self.name, self.widths, self.overrides)]
        return [
            (f"{self.name}_{width}", (width,), (*self.overrides, f"model.init_std={width}^-0.5"))
            for width in self.widths
        ]


TRANSFERS = (
    Bar("slope", at_most=0.15, of_magnitude=True),
    Bar("range", at_most=0.5),
    Bar("regret", at_most=0.02),
)
WIDTHS = (32, 64, 128, 256)
DEPTHS = (2, 4, 8, 16, 32)
DEEP = (
    "model.d_model=64",
    "model.init_std=64^-0.5",
    "model.num_heads=4",
    "mup.base.d_model=64",
    "mup.base.num_layers=1",
    # Four times the batch of the others: with theirs the losses of one rate differ by 0.1 nats between seeds.
    "train.global_batch_size=64",
    "train.micro_batch_size=64",
    "train.num_tokens=307_200",
    "schedule.warmup_tokens=30_720",
)
GELU = "model.activation=gelu"
DEPTH_BARS = (Bar("range", at_most=0.3), Bar("regret", at_most=0.02))
STUDIES = (
    Study("mup_width", "muP over widths", WIDTHS, (2,), (-8, -3), (0, 1, 2), bars=TRANSFERS),
    Study(
        "standard_width",
        "standard over widths",
        WIDTHS,
        (2,),
        (-10, -4),
        (0, 1),
        ("mup.parametrization=standard",),
        scales_init=True,
        bars=(Bar("slope", at_most=-0.7), Bar("regret", at_least=0.15)),
    ),
    Study(
        "mup_width_decay",
        "muP over widths, weight decay 0.5",
        WIDTHS,
        (2,),
        (-8, -3),
        (0, 1),
        ("optimizer.weight_decay=0.5",),
        bars=TRANSFERS,
    ),
    Study(
        "completep_depth",
        "CompleteP over depths",
        (64,),
        DEPTHS,
        (-8, -4),
        (0, 1, 2),
        (*DEEP, GELU, "mup.parametrization=completep"),
        bars=DEPTH_BARS,
    ),
    # With swiglu the losses of 2 and 4 layers hardly depend on the rate, from 2^-6 to 2^-4: no optimum is to be kept.
    Study(
        "completep_depth_swiglu",
        "CompleteP over depths, swiglu",
        (64,),
        (8, 16, 32),
        (-7, -4),
        (0, 1),
        (*DEEP, "mup.parametrization=completep"),
        bars=DEPTH_BARS,
    ),
    Study("mup_depth", "muP, which does not know depth", (64,), (2, 8, 32), (-9, -5), (0, 1), (*DEEP, GELU)),
)
SOON = ("train.num_tokens=38_400", "schedule.warmup_tokens=3_840")  # 75 steps
SHORT = (
    replace(STUDIES[0], widths=(32, 128), log2_lrs=(-6, -3), seeds=(0,), overrides=SOON),
    replace(
        STUDIES[1],
        widths=(32, 128),
        log2_lrs=(-8, -4),
        seeds=(0,),
        overrides=(*STUDIES[1].overrides, *SOON),
        bars=(Bar("slope", at_most=-0.7),),
    ),
)


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Results and plots go here.")] = Path("benchmarks/results/transfer"),
    work: Annotated[Path, typer.Option(help="Corpus and trials; a second call goes on from it.")] = Path(
        "runs/transfer"
    ),
    only: Annotated[list[str] | None, typer.Option(help="Only these studies.")] = None,
    short: Annotated[bool, typer.Option("--short", help="Few models, one seed: what CI has time for.")] = False,
    jobs: Annotated[int | None, typer.Option(help="Trials at a time; else one for each core.")] = None,
) -> None:
    """Run the studies, hold them to their bars, and write what was measured."""
    studies = [each for each in (SHORT if short else STUDIES) if not only or each.name in only]
    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    text = [str(standard_library() / "asyncio")] if short else ["--stdlib"]
    _foretrain("prepare", *text, "--vocab-size", "258", "--out", str(work / "data"), "--reuse")
    fitted = {each: _fit(each, work, out, jobs) for each in studies}
    records = [_record(each, of) for each, of in fitted.items()]
    (out / "summary.json").write_text(json.dumps({"machine": _machine(), "studies": records}, indent=1) + "\n")
    plot({each.title: of for each, of in fitted.items()}, out / "transfer.png")
    console.print(_table(fitted))
    if not all(bar.holds(_drift(each, of)) for each, of in fitted.items() for bar in each.bars):
        raise typer.Exit(1)


def _fit(each: Study, work: Path, out: Path, jobs: int | None) -> Fitted:
    """Run what is left of a study, copy its results, and fit it."""
    sweeps = []
    for name, widths, overrides in each.sweeps:
        folder = work / name
        low, high = each.log2_lrs
        console.print(f"[bold]{each.title}[/]: {name}")
        _foretrain(
            "sweep",
            "runs/mup_proxy",
            f"data.path={work / 'data'}",
            *overrides,
            "--over",
            f"optimizer.lr=2^{low}..2^{high}",
            *("--widths", ",".join(map(str, widths))),
            *("--depths", ",".join(map(str, each.depths))),
            *("--seeds", ",".join(map(str, each.seeds))),
            *("--out", str(folder)),
            *(("--jobs", str(jobs)) if jobs else ()),
        )
        shutil.copy(folder / RESULTS_FILE, out / f"{name}.jsonl")
        sweeps.append(read_sweep(folder))
    return study(_joined(sweeps), sweeps[0].config)


def _joined(sweeps: Sequence[Sweep]) -> Sweep:
    """Sweeps that tried the same rates, as one."""
    return replace(
        sweeps[0],
        sizes=tuple(size for sweep in sweeps for size in sweep.sizes),
        trials=tuple(trial for sweep in sweeps for trial in sweep.trials),
    )


def _drift(each: Study, of: Fitted) -> Drift:
    """That along the study's ladder. Raises ValueError where too few of its models have an optimum."""
    along = "d_model" if len(each.widths) > 1 else "num_layers"
    problems = [f"{fit.size}: {fit.problem}" for fit in of.fits if fit.optimum is None]
    found = [drift for drift in of.drifts if drift.along == along]
    if problems or not found:
        raise ValueError(f"{each.title}: {'; '.join(problems) or 'no two models have an optimum'}")
    return found[0]


def _record(each: Study, of: Fitted) -> dict[str, Any]:
    drift = _drift(each, of)
    return {
        "study": each.name,
        "title": each.title,
        "overrides": each.overrides,
        "seeds": each.seeds,
        "models": [
            {
                "d_model": fit.size.d_model,
                "num_layers": fit.size.num_layers,
                "log2_lr": round(fit.optimum.log2_lr, 3),
                "uncertainty": round(fit.optimum.uncertainty, 3),
                "loss": round(fit.optimum.loss, 4),
            }
            for fit in of.fits
            if fit.optimum is not None
        ],
        "slope": round(drift.slope, 3),
        "slope_uncertainty": round(drift.uncertainty, 3),
        "range": round(drift.range, 3),
        "regret": round(drift.regret, 4),
        "bars": {str(bar): bar.holds(drift) for bar in each.bars},
    }


def _table(fitted: dict[Study, Fitted]) -> Table:
    table = Table("study", "log2 lr of each model", "slope", "range", "regret", "bars", box=None)
    for each, of in fitted.items():
        drift = _drift(each, of)
        optima = "  ".join(f"{fit.best_log2_lr:.2f}" for fit in of.fits)
        slope = f"{drift.slope:+.2f} ± {drift.uncertainty:.2f}"
        table.add_row(
            each.title, optima, slope, f"{drift.range:.2f}", f"{drift.regret:.3f}", "\n".join(_verdicts(each, drift))
        )
    return table


def _verdicts(each: Study, drift: Drift) -> Iterator[str]:
    for bar in each.bars:
        yield f"[green]{bar}[/]" if bar.holds(drift) else f"[bold red]FAILS: {bar}[/]"


def _foretrain(*arguments: str) -> None:
    """Call a command in this process: its imports and its server of trials serve all of them."""
    status = command_line(list(arguments), standalone_mode=False)
    if status:
        raise typer.Exit(status)


def _machine() -> dict[str, Any]:
    import torch

    return {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "code": code_version(),
    }


if __name__ == "__main__":
    app()
