"""Write docs/performance.md from the committed results, numbers and plots: no number of it is written by hand.

    python -m benchmarks.train.document

It reads benchmarks/results/train_*.jsonl and scale.jsonl, which `python -m benchmarks.train` and `python -m
benchmarks.scale` wrote. A result that is not there has no section.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from benchmarks.checkpoint.pairs import MIB
from benchmarks.checkpoint.report import Bar
from benchmarks.scale import report as scale_report
from benchmarks.train import report
from benchmarks.train.agreement import NUM_CHECKED

Record = dict[str, Any]
ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
SCALE = "scale.jsonl"
DOCUMENT = ROOT / "docs" / "performance.md"
HEAD = f"""# Performance

`python -m benchmarks.train.document` writes this page from files in [benchmarks/results](../benchmarks/results). All
contestants of a table were measured together, a few steps at a time in turn. They start from the same weights
and see the same batches. The losses and the norms of gradients of the first {NUM_CHECKED} steps, and the norm of the
weights after them, are those of the bare loop within the tolerances in the first line of each file; otherwise the
contestant is refused. A ratio is the median over the rounds, and its interval has a confidence of 95 %.

- TFLOP/s = F T: F are the FLOPs of training on a token, with all of attention's scores, and T tokens per second.
- MFU = F T / P (arXiv 2204.02311, appendix B), with P the peak of the GPU's datasheet for bf16. A CPU has none.
- The first step ends that many seconds after a new process starts, imports and compilation included.
"""

app = typer.Typer(add_completion=False)


@app.command()
def main(
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
    document: Annotated[Path, typer.Option(help="The document to write.")] = DOCUMENT,
) -> None:
    """Write the document, and the plots beside the results."""
    for path in train_files(results):
        header, records = read(path)
        names = {f"{each['contestant']} / {each['other']}": each for each in report.ratio_records(records)}
        plot(path.with_suffix(".png"), names, f"time of a step, {header['size']}, {header['task']['device']}")
    if (scale := results / SCALE).is_file():
        found = scale_report.ratios(read(scale)[1])
        names = {f"{axis}: {name}": report.plain(each) for (axis, name), each in found.items()}
        plot(scale.with_suffix(".png"), names, "cost, relative to the base of the axis")
    document.write_text(text_of(results), encoding="utf-8")


def text_of(results: Path) -> str:
    """The document. Raises ValueError if there is no result at all."""
    sections = [train_section(path) for path in train_files(results)]
    if (scale := results / SCALE).is_file():
        sections.append(scale_section(scale))
    if not sections:
        raise ValueError(f"{results} has no train_*.jsonl and no scale.jsonl: run the benchmarks first")
    return "\n".join([HEAD, *sections])


def train_files(results: Path) -> list[Path]:
    """The results of trainings, in the order of their names."""
    return sorted(results.glob("train_*.jsonl"))


def read(path: Path) -> tuple[Record, list[Record]]:
    """The first line of a file of results, and its measurements."""
    header, *lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return header, [each for each in lines if each["type"] != "summary"]


def train_section(path: Path) -> str:
    """What one file of `python -m benchmarks.train` says."""
    header, records = read(path)
    task = header["task"]
    where = header["gpu"] or f"{header['cpu']}, threads: {task['threads']}"
    intro = (
        f"{header['num_params'] / 1e6:.1f}M parameters, {task['num_layers']} layers, width {task['d_model']}, "
        f"batches of {task['batch_size']} x {task['seq_len']} tokens, {task['precision']}. {where}; "
        f"{_versions(header)}; {_load(records)}"
    )
    rows = [_contestant_row(each) for each in report.summary(records, header)]
    columns = ["", "tokens/s", "step, ms", "quartiles", "TFLOP/s", "MFU", "peak memory, MiB", "first step, s"]
    ratios = [
        [
            *(each["contestant"], each["other"]),
            *(f"{each['value']:.3f}", report.interval(each)),
            *(f"{each['of_cpu']['value']:.3f}", report.interval(each["of_cpu"])),
        ]
        for each in report.ratio_records(records)
    ]
    parts = [
        f"## {header['size']}, {task['device']}, {task['precision']}",
        f"{intro} File: `{path.name}`.",
        _table(columns, rows),
        "Time of a step as a multiple of another one, and seconds of CPU likewise:",
        _table(["step of", "relative to", "ratio", "interval", "of CPU", "interval"], ratios),
        f"![ratios](../benchmarks/results/{path.stem}.png)",
        _bars(report.bars(records)),
    ]
    if any(each["type"] == "profile" for each in records):
        parts += ["Where the time of a step goes, ms, with the profiler on:", _profiles(records)]
    return "\n\n".join(parts) + "\n"


def scale_section(path: Path) -> str:
    """What a file of `python -m benchmarks.scale` says."""
    header, records = read(path)
    measured = scale_report.ratios(records)
    rows = []
    for (axis, name), by_round in scale_report.costs(records).items():
        each = measured[axis, name]
        cost = median(by_round.values())
        unit = scale_report.UNITS.get(axis, scale_report.OF_SIZES)
        rows.append([axis, name, f"{cost:.4g} {unit}", f"{each.value:.3f}", _interval(each.low, each.high)])
    parts = [
        "## Scale",
        f"One thread for each rank. {header['cpu']}, {header['num_cpus']} cores; {_load(records)} File: `{path.name}`.",
        _table(["axis", "point", "cost", "relative to the base", "interval"], rows),
        f"![costs](../benchmarks/results/{path.stem}.png)",
        _bars(scale_report.bars(records)),
    ]
    return "\n\n".join(parts) + "\n"


def plot(path: Path, ratios: Mapping[str, Record], title: str) -> None:
    """Draw ratios by name, with their intervals, into a file."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 1 + 0.3 * len(ratios)), layout="constrained")
    places, values = range(len(ratios)), [each["value"] for each in ratios.values()]
    ends = [(each["value"],) * 2 if each["high"] is None else (each["low"], each["high"]) for each in ratios.values()]
    axes.hlines(places, [low for low, _ in ends], [high for _, high in ends], color="tab:blue")
    axes.plot(values, places, "o", color="tab:blue")
    axes.axvline(1.0, color="gray", linewidth=0.8)
    axes.set_yticks(places, list(ratios))
    axes.invert_yaxis()
    axes.set_xlabel(title)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)


def _contestant_row(each: Record) -> list[str]:
    if "step_s" not in each:
        reasons = [f"{key}: {each[key]}" for key in report.REASONS if key in each]
        return [each["contestant"], " ".join(reasons).replace("|", "/"), *[""] * 6]
    low, high = each["step_quartiles_s"]
    return [
        each["contestant"],
        f"{each['tokens_per_s']:,.0f}",
        f"{1e3 * each['step_s']:.2f}",
        f"{1e3 * low:.2f} to {1e3 * high:.2f}",
        f"{each['tflops']:.4g}",
        f"{each['mfu']:.1%}" if "mfu" in each else "",
        f"{report.peak_bytes(each) / MIB:,.0f}",
        f"{each['first_step_s']:.1f}",
    ]


def _profiles(records: Sequence[Record]) -> str:
    kinds, by_name = report.profiles(records)
    rows = [[kind, *(f"{profile.get(kind, 0.0):.2f}" for profile in by_name.values())] for kind in kinds]
    return _table(["", *by_name], rows)


def _bars(bars: Sequence[Bar]) -> str:
    rows = [[bar.name, f"{bar.value:.3f}", f"{bar.limit:g}", bar.verdict] for bar in bars if bar.value is not None]
    return _table(["bar", "measured", "at most", ""], rows)


def _interval(low: float, high: float | None) -> str:
    return "too few rounds" if high in (None, float("inf")) else f"{low:.3f} to {high:.3f}"


def _versions(header: Record) -> str:
    return ", ".join(f"{name} {version}" for name, version in header["versions"].items())


def _load(records: Sequence[Record]) -> str:
    """How much else the machine did, as far as the load says."""
    loads = [each["load_before"] for each in records if "load_before" in each]
    return f"the load of the machine was {min(loads):.1f} to {max(loads):.1f}." if loads else "the load is not known."


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    app()
