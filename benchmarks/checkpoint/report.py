"""The numbers of all rounds, their bars, and tables of both."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Self

from rich.table import Table

from benchmarks.checkpoint.contestants import OURS
from benchmarks.checkpoint.pairs import MIB, Ratio, Record, slowdown


@dataclass(frozen=True)
class Bar:
    """A number that must be at most a limit."""

    name: str
    value: float | None
    """None if it was not measured."""
    limit: float
    low: float | None = None
    """The ends of the interval that the number is in; None: it counts as exact."""
    high: float | None = None

    @classmethod
    def of(cls, name: str, found: Ratio | None, limit: float) -> Self:
        """The bar of a ratio with an interval."""
        return cls(name, None, limit) if found is None else cls(name, found.value, limit, found.low, found.high)

    @property
    def passed(self) -> bool | None:
        """Whether the number, with all of its interval, is at most the limit; None if it is not decided or measured."""
        if self.value is None:
            return None
        low, high = (self.value if end is None else end for end in (self.low, self.high))
        return None if low <= self.limit < high else high <= self.limit

    @property
    def verdict(self) -> str:
        """What `passed` means, in words."""
        if self.value is None:
            return "not measured"
        return {True: "passed", False: "FAILED", None: "undecided"}[self.passed]


def bars(records: Sequence[Record]) -> list[Bar]:
    """The bars of foretrain. Those without an interval are medians over the rounds."""
    saves = [each for each in records if each["type"] == "save" and each["contestant"] == OURS and "stall_s" in each]
    beyond = [(each["extra_host_bytes"] - each["staging_bytes"]) / each["state_bytes"] for each in saves]
    return [
        Bar("stall / bare copy of the state", _median([each["stall_s"] / each["memcpy_s"] for each in saves]), 1.2),
        Bar.of("steps while a save is written / other steps", slowdown(_with_a_spare_core(records)), 1.02),
        Bar("host memory beyond the staging copy / state", _median(beyond), 0.05),
    ]


def limits(records: Sequence[Record]) -> list[Bar]:
    """What counts for no bar: steps beside a bare write by another process, which costs them as much as any save must,
    and steps beside a save on a machine that has no core to spare for the writers."""
    bare = slowdown(_with_a_spare_core(records), ["bare"])
    crowded = slowdown([each for each in records if not each.get("has_spare_core", True)])
    return [
        Bar.of("steps beside a bare write by another process / other steps", bare, 1.02),
        Bar.of("steps while a save is written / other steps, without a core to spare", crowded, 1.02),
    ]


def _with_a_spare_core(records: Sequence[Record]) -> list[Record]:
    return [each for each in records if each.get("has_spare_core", True)]


def bar_records(measured: Sequence[Bar]) -> list[Record]:
    """The bars as plain values."""
    return [{**asdict(bar), "passed": bar.passed, "verdict": bar.verdict} for bar in measured]


def slowest(ranks: Sequence[dict[str, float]]) -> dict[str, float]:
    """One record of what all ranks measured: the largest of each number."""
    return {name: max(each[name] for each in ranks) for name in ranks[0]}


def contest_table(records: Sequence[Record], names: Sequence[str]) -> Table:
    """A row for each contestant, with medians over the rounds."""
    table = Table("contestant", title="Saves, medians over the rounds")
    for column in ("stall, s", "/ bare copy", "first stall, s", "total, s", "extra memory, MiB", "written, MiB"):
        table.add_column(column, justify="right")
    for name in names:
        found = [each for each in records if each["type"] == "save" and each["contestant"] == name]
        saves = [each for each in found if "stall_s" in each]
        if not saves:
            table.add_row(name, *(each.get("missing") or each.get("failed") for each in found[:1]))
            continue
        table.add_row(
            name,
            f"{_of(saves, 'stall_s'):.3f}",
            f"{median(each['stall_s'] / each['memcpy_s'] for each in saves):.2f}",
            f"{_of(saves, 'first_stall_s'):.3f}",
            f"{_of(saves, 'total_s'):.2f}",
            f"{_of(saves, 'extra_host_bytes') / MIB:.0f}",
            f"{_of(saves, 'written_bytes') / MIB:.0f}",
        )
    return table


def bar_table(measured: Sequence[Bar], title: str) -> Table:
    """A row for each bar."""
    table = Table("bar", "measured", "interval", "at most", "", title=title)
    for bar in measured:
        interval = "" if bar.low is None else f"{bar.low:.4f} to {bar.high:.4f}"
        table.add_row(
            bar.name, "-" if bar.value is None else f"{bar.value:.3f}", interval, f"{bar.limit:g}", bar.verdict
        )
    return table


def _of(saves: Sequence[Record], name: str) -> float:
    return median(each[name] for each in saves)


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None
