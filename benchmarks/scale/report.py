"""The cost of each point, its bar, and tables."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Any

from rich.table import Table

from benchmarks.checkpoint.pairs import MIB, Ratio
from benchmarks.checkpoint.report import Bar
from benchmarks.scale.points import CHECKPOINT, RANKS, STEPS
from benchmarks.train.ratios import ratio

Record = dict[str, Any]
UNITS = {RANKS: "core s / Mtoken", CHECKPOINT: "s / GiB", STEPS: "memory / first memory"}
OF_SIZES = "s / TFLOP"


def cost(record: Record) -> float:
    """What a point cost in a round, in the unit of its axis.

    `ranks`: seconds of the cores that the ranks can use, for a million tokens. `checkpoint`: seconds for a GiB.
    `steps`: the memory after many steps, as a multiple of that after the first ones. Else: seconds for 1e12 FLOPs.
    """
    if record["axis"] == CHECKPOINT:
        return float(median(record["save_s"]) / record["bytes"] * 2**30)
    if record["axis"] == STEPS:
        return float(record["last_bytes"] / record["first_bytes"])
    per_token = median(record["step_s"]) / record["tokens_per_step"]
    if record["axis"] == RANKS:
        return float(1e6 * per_token * min(record["ranks"], record["num_cores"]))
    return float(1e12 * per_token / record["flops_per_token"])


def costs(records: Sequence[Record]) -> dict[tuple[str, str], dict[int, float]]:
    """The cost of each point, by its axis and name, in each round; the points in their own order."""
    found: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for each in sorted(records, key=lambda each: int(each["place"])):
        if "failed" not in each:
            found[each["axis"], each["point"]][each["round"]] = cost(each)
    return found


def ratios(records: Sequence[Record]) -> dict[tuple[str, str], Ratio]:
    """The cost of each point as a multiple of that of the base of its axis in the same round; of `steps`, its cost."""
    bases = {each["axis"]: (each["axis"], each["point"]) for each in records if each["is_base"]}
    by_point, found = costs(records), {}
    for key, by_round in by_point.items():
        base = by_point.get(bases[key[0]], {}) if key[0] in bases else dict.fromkeys(by_round, 1.0)
        common = sorted(by_round.keys() & base.keys())
        each = ratio([by_round[number] for number in common], [base[number] for number in common])
        if each is not None:
            found[key] = each
    return found


def bars(records: Sequence[Record]) -> list[Bar]:
    """The bar of each point that has a limit; one that failed has no value."""
    in_order = sorted(records, key=lambda each: int(each["place"]))
    limits = {(each["axis"], each["point"]): each["limit"] for each in in_order if each["limit"]}
    measured = ratios(records)
    return [Bar.of(f"{axis}: {name}", measured.get((axis, name)), limit) for (axis, name), limit in limits.items()]


def is_passed(measured: Sequence[Bar]) -> bool:
    """Whether there is a bar, and every one is kept."""
    return bool(measured) and all(bar.passed for bar in measured)


def table(records: Sequence[Record]) -> Table:
    """A row for each point."""
    found = Table("axis", "point", title="Costs, medians over the rounds")
    for column in ("cost", "of the base", "95 %", "step, ms", "CPU of a step, ms", "peak, MiB"):
        found.add_column(column, justify="right")
    measured = ratios(records)
    for (axis, name), by_round in costs(records).items():
        own = [each for each in records if (each["axis"], each["point"]) == (axis, name) and "failed" not in each]
        each = measured[axis, name]
        steps = [step_s for one in own for step_s in one.get("step_s", ())]
        cpu_s = [one["cpu_s"] / len(one["step_s"]) for one in own if "cpu_s" in one]
        peak = [one["host_peak_bytes"] for one in own if "host_peak_bytes" in one]
        found.add_row(
            axis,
            name,
            f"{median(by_round.values()):.4g} {UNITS.get(axis, OF_SIZES)}",
            f"{each.value:.3f}",
            f"{each.low:.3f} to {each.high:.3f}",
            f"{1e3 * median(steps):.1f}" if steps else "-",
            f"{1e3 * median(cpu_s):.1f}" if cpu_s else "-",
            f"{max(peak) / MIB:.0f}" if peak else "-",
        )
    return found
