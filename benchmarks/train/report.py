"""What the records say: a line for each contestant, ratios, bars, and tables of them."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from statistics import median, quantiles
from typing import Any

from rich.table import Table

from benchmarks.checkpoint.pairs import MIB, Ratio
from benchmarks.checkpoint.report import Bar
from benchmarks.train.contestants import (
    BARE,
    BARE_COMPILED,
    CONTESTANTS,
    ENGINE,
    ENGINE_COMPILED,
    TRAINER,
    TRAINER_COMPILED,
)
from benchmarks.train.ratios import ratio

Record = dict[str, Any]
OURS = (TRAINER, TRAINER_COMPILED, ENGINE, ENGINE_COMPILED)
OF_BARE, OF_LOOP, OF_PEER = 1.02, 1.01, 1.0
"""The most that a step of ours may take, as a multiple of one of the bare loop, of our engine alone (for the complete
loop), and of another library."""
REASONS = ("missing", "failed", "refused")


def compared() -> Iterator[tuple[str, str, float]]:
    """The pairs that have a bar: one of ours, another contestant, and the limit of their ratio."""
    yield ENGINE, BARE, OF_BARE
    yield ENGINE_COMPILED, BARE_COMPILED, OF_BARE
    yield TRAINER, ENGINE, OF_LOOP
    yield TRAINER_COMPILED, ENGINE_COMPILED, OF_LOOP
    for name in CONTESTANTS:
        if name not in (*OURS, BARE, BARE_COMPILED):
            yield (TRAINER_COMPILED if "compiled" in name else TRAINER), name, OF_PEER


Turn = tuple[int, int]
"""The number of a session, and that of a round in it."""


def times(records: Sequence[Record]) -> dict[str, dict[Turn, float]]:
    """The median step of each contestant in each round, seconds."""
    return _by_round(records, lambda record: median(record["step_s"]))


def cpu_times(records: Sequence[Record]) -> dict[str, dict[Turn, float]]:
    """The seconds of CPU of a step, of all threads of the process, of each contestant in each round."""
    return _by_round(records, lambda record: float(record["cpu_s"]) / len(record["step_s"]))


def _by_round(records: Sequence[Record], value: Callable[[Record], float]) -> dict[str, dict[Turn, float]]:
    found: dict[str, dict[Turn, float]] = defaultdict(dict)
    for each in records:
        if each["type"] == "round":
            found[each["contestant"]][each["session"], each["round"]] = value(each)
    return found


def ratio_of(records: Sequence[Record], name: str, other: str, *, of_cpu: bool = False) -> Ratio | None:
    """The time of a step of one contestant as a multiple of that of another, over the rounds that both have.

    `of_cpu`: in seconds of CPU, which say more where other programs take a part of the cores.
    """
    found = cpu_times(records) if of_cpu else times(records)
    turns = sorted(found[name].keys() & found[other].keys())
    sessions = [session for session, _ in turns]
    return ratio([found[name][each] for each in turns], [found[other][each] for each in turns], sessions)


def bars(records: Sequence[Record]) -> list[Bar]:
    """The bars of foretrain."""
    return [Bar.of(f"{ours} / {other}", ratio_of(records, ours, other), limit) for ours, other, limit in compared()]


def is_passed(records: Sequence[Record], measured: Sequence[Bar]) -> bool:
    """Whether every bar that could be measured is kept, and all of ours ran; a peer may be missing."""
    broken = [each for each in records if each["contestant"] in OURS and any(reason in each for reason in REASONS)]
    decided = [bar for bar in measured if bar.value is not None]
    return not broken and bool(decided) and all(bar.passed for bar in decided)


def summary(records: Sequence[Record], header: Record) -> list[Record]:
    """A record for each contestant: its numbers, or the reason why there are none."""
    return [_summary_of(name, records, header) for name in _names(records)]


def _summary_of(name: str, records: Sequence[Record], header: Record) -> Record:
    own = [each for each in records if each["contestant"] == name]
    found: Record = {"contestant": name}
    for each in own:
        found |= {key: each[key] for key in REASONS if key in each}
    rounds = [each for each in own if each["type"] == "round"]
    if not rounds:
        return found
    steps = [step_s for each in rounds for step_s in each["step_s"]]
    starts = [each for each in own if each["type"] == "start" and "first_step_s" in each]
    step_s, tokens = median(steps), header["tokens_per_step"]
    low, _, high = quantiles(steps, n=4) if len(steps) > 1 else (step_s, step_s, step_s)
    found |= {
        "step_s": step_s,
        "step_quartiles_s": [low, high],
        "tokens_per_s": tokens / step_s,
        "cpu_s_per_step": median(each["cpu_s"] / len(each["step_s"]) for each in rounds),
        "tflops": header["flops_per_token"] * tokens / step_s / 1e12,
        "first_step_s": median(each["first_step_s"] for each in starts),
        "ready_s": median(each["ready_s"] for each in starts),
        "largest_difference": max(each["largest_difference"] for each in starts),
    }
    if header["peak_tflops"]:
        found["mfu"] = header["flops_per_token"] * tokens / step_s / 1e12 / header["peak_tflops"]
    for key in ("host_peak_bytes", "device_peak_bytes"):
        if key in rounds[0]:
            found[key] = max(each[key] for each in rounds)
    return found


def ratio_records(records: Sequence[Record]) -> list[Record]:
    """The ratio of each of ours to each other contestant."""
    found = []
    for ours in OURS:
        for other in _names(records):
            each, of_cpu = ratio_of(records, ours, other), ratio_of(records, ours, other, of_cpu=True)
            if other != ours and each is not None and of_cpu is not None:
                both = {**plain(each), "of_cpu": plain(of_cpu)}
                found.append({"contestant": ours, "other": other, **both})
    return found


def plain(each: Ratio) -> Record:
    """A ratio as plain values for JSON, which has no infinity: None in its place."""
    return {**asdict(each), "high": None if each.high == math.inf else each.high}


def interval(each: Record) -> str:
    """The interval of a ratio in words."""
    return "too few rounds" if each["high"] is None else f"{each['low']:.3f} to {each['high']:.3f}"


def contest_table(lines: Sequence[Record]) -> Table:
    """A row for each contestant."""
    table = Table("contestant", title="Steps, medians over the rounds")
    for column in ("tokens/s", "step, ms", "quartiles", "CPU, ms", "TFLOP/s", "MFU", "peak, MiB", "first step, s"):
        table.add_column(column, justify="right")
    for each in lines:
        if "step_s" not in each:
            table.add_row(each["contestant"], " ".join(f"{key}: {each[key]}" for key in REASONS if key in each))
            continue
        low, high = each["step_quartiles_s"]
        table.add_row(
            each["contestant"],
            f"{each['tokens_per_s']:.0f}",
            f"{1e3 * each['step_s']:.2f}",
            f"{1e3 * low:.2f}, {1e3 * high:.2f}",
            f"{1e3 * each['cpu_s_per_step']:.2f}",
            f"{each['tflops']:.4g}",
            f"{each['mfu']:.1%}" if "mfu" in each else "-",
            f"{peak_bytes(each) / MIB:.0f}",
            f"{each['first_step_s']:.1f}",
        )
    return table


def peak_bytes(line: Record) -> int:
    """The memory of a contestant that matters: that of its GPU, or of its process where there is none."""
    peak: int = line["device_peak_bytes"] if "device_peak_bytes" in line else line["host_peak_bytes"]
    return peak


def ratio_table(lines: Sequence[Record]) -> Table:
    """A row for each pair of one of ours and another contestant."""
    table = Table("step of", "as a multiple of", title="Ratios in the same rounds")
    for column in ("ratio", "95 %", "of CPU", "95 %", "rounds"):
        table.add_column(column, justify="right")
    for each in lines:
        of_cpu = each["of_cpu"]
        cells = (f"{each['value']:.3f}", interval(each), f"{of_cpu['value']:.3f}", interval(of_cpu))
        table.add_row(each["contestant"], each["other"], *cells, str(each["num_pairs"]))
    return table


def profiles(records: Sequence[Record]) -> tuple[list[str], dict[str, dict[str, float]]]:
    """The kinds of work, the longest first, and the milliseconds of a step in each, by contestant."""
    by_name = {
        each["contestant"]: {kind: 1e3 * s / len(each["step_s"]) for kind, s in each["profile"].items()}
        for each in records
        if each["type"] == "profile"
    }
    total: dict[str, float] = defaultdict(float)
    for profile in by_name.values():
        for kind, ms in profile.items():
            total[kind] += ms
    return sorted(total, key=lambda kind: -total[kind]), by_name


def profile_table(records: Sequence[Record]) -> Table:
    """A row for each kind of work, and a column for each contestant: milliseconds of a step."""
    kinds, by_name = profiles(records)
    table = Table("ms of a step", title="Where a step's time goes (with the profiler, which adds to Python)")
    for name in by_name:
        table.add_column(name, justify="right")
    for kind in kinds:
        table.add_row(kind, *(f"{profile.get(kind, 0.0):.2f}" for profile in by_name.values()))
    return table


def _names(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(each["contestant"] for each in records))
