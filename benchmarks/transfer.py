"""Measure how learning rates transfer with muP over widths, with CompleteP over depths, and without either.

    python -m benchmarks.transfer --out benchmarks/results/transfer

Each study is a `foretrain sweep` of the preset runs/mup_proxy on Python's standard library, byte by byte. Finished
trials are kept in --work, and a second call continues from there. There are two controls: the standard parametrization
over widths, with initial weights scaled to each width (1 / sqrt(d_model)), and muP, which ignores depth, over depths.
It takes about an hour on two cores; --short, with a part of the library and half the steps, takes a minute. The exit
status is 1 if a bar fails.
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
from foretrain.data_pipeline.prepare.input_files import standard_library
from foretrain.scaling.records import RESULTS_FILE
from foretrain.scaling.transfer.study import Drift, study
from foretrain.scaling.transfer.study import Study as Fitted
from foretrain.scaling.transfer.sweep_folder import Sweep, read_sweep
from foretrain.trainer.run.environment import code_version
from foretrain.verbs.app import app as command_line

app = typer.Typer(add_completion=False)
console = Console(stderr=True)


@dataclass(frozen=True)
class DriftBar:
    """A limit on a number of a study's drift."""

    name: str
    """A property of Drift, or its absolute value, as in "|slope|"."""
    limit: float
    at_least: bool = False
    """Whether the number must be at least the limit; otherwise it must be at most the limit."""

    def holds(self, drift: Drift) -> bool:
        """Return whether the drift keeps to the limit; a number that is NaN does not."""
        value = float(getattr(drift, self.name.strip("|")))
        value = abs(value) if self.name.startswith("|") else value
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{self.name} at {'least' if self.at_least else 'most'} {self.limit:g}"


@dataclass(frozen=True)
class Study:
    """One ladder of models."""

    name: str
    title: str
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    log2_lrs: tuple[int, int]
    """First and last exponent of 2; all integers between them are tried too."""
    seeds: tuple[int, ...]
    overrides: tuple[str, ...] = ()
    scales_init: bool = False
    """Whether the initial weights are scaled to each width, 1 / sqrt(width)."""
    bars: tuple[DriftBar, ...] = ()

    @property
    def sweeps(self) -> list[tuple[str, tuple[int, ...], tuple[str, ...]]]:
        """Name, widths and overrides of each sweep of the study."""
        if not self.scales_init:
            return [(self.name, self.widths, self.overrides)]
        return [
            (f"{self.name}_{width}", (width,), (*self.overrides, f"model.init_std={width}^-0.5"))
            for width in self.widths
        ]


TRANSFERS = (DriftBar("|slope|", 0.15), DriftBar("range", 0.5), DriftBar("regret", 0.02))
WIDTHS = (32, 64, 128, 256)
DEPTHS = (2, 4, 8, 16, 32)
DEEP = (
    "model.d_model=64",
    "model.init_std=64^-0.5",
    "model.num_heads=4",
    "mup.base.d_model=64",
    "mup.base.num_layers=1",
    # Four times the batch of the other studies; with theirs, the losses of one rate differ by 0.1 nats between seeds.
    "train.global_batch_size=64",
    "train.micro_batch_size=64",
    "train.num_tokens=307_200",
    "schedule.warmup_tokens=30_720",
)
GELU = "model.activation=gelu"
DEPTH_BARS = (DriftBar("range", 0.3), DriftBar("regret", 0.02))
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
        bars=(DriftBar("slope", -0.7), DriftBar("regret", 0.15, at_least=True)),
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
    # With swiglu the losses of 2 and 4 layers hardly depend on the rate from 2^-6 to 2^-4: they have no clear optimum.
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
        bars=(DriftBar("slope", -0.7),),
    ),
)


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Folder of the results and plots.")] = Path("benchmarks/results/transfer"),
    work: Annotated[
        Path, typer.Option(help="Folder of the corpus and the trials, from which a second call continues.")
    ] = Path("runs/transfer"),
    only: Annotated[list[str] | None, typer.Option(help="Run only these studies.")] = None,
    short: Annotated[bool, typer.Option("--short", help="Few models and one seed, for CI.")] = False,
    jobs: Annotated[int | None, typer.Option(help="Trials at a time. Default: one for each core.")] = None,
) -> None:
    """Run the studies, check their bars, and write the results."""
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
    """Run the unfinished trials of a study, copy its results, and return its fit."""
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
    """Return sweeps that tried the same rates as one sweep."""
    return replace(
        sweeps[0],
        sizes=tuple(size for sweep in sweeps for size in sweep.sizes),
        trials=tuple(trial for sweep in sweeps for trial in sweep.trials),
    )


def _drift(each: Study, of: Fitted) -> Drift:
    """Return the drift along the study's ladder of models. Raises ValueError if too few models have an optimum."""
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
    """Run a command in this process, so that all commands share the imports and the server of trials."""
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
