"""The numbers of all rounds, their bars, and tables of both."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.table import Table

from benchmarks.checkpoint.contestants import OURS

Record = dict[str, Any]
MIB = 2**20


@dataclass(frozen=True)
class Bar:
    """A number that must be at most a limit."""

    name: str
    value: float | None
    """None if it was not measured."""
    limit: float

    @property
    def passed(self) -> bool | None:
        """Whether the number is at most the limit; None if it was not measured."""
        return None if self.value is None else self.value <= self.limit


def bars(records: Sequence[Record]) -> list[Bar]:
    """The bars of foretrain: medians over the rounds."""
    saves = [each for each in records if each["type"] == "save" and each["contestant"] == OURS and "stall_s" in each]
    steps = [each for each in records if each["type"] == "steps" and "step_s" in each]
    beyond = [(each["extra_host_bytes"] - each["staging_bytes"]) / each["state_bytes"] for each in saves]
    return [
        Bar("stall / bare copy of the state", _median([each["stall_s"] / each["memcpy_s"] for each in saves]), 1.2),
        Bar("steps while a save is written / other steps", _median([_slowdown(each) for each in steps]), 1.02),
        Bar("host memory beyond the staging copy / state", _median(beyond), 0.05),
    ]


def limits(records: Sequence[Record]) -> list[Bar]:
    """The same for a bare write by another process, which costs steps as much as any save must. Not a bar of ours."""
    steps = [each for each in records if each["type"] == "steps" and "step_beside_bare_write_s" in each]
    slowdown = _median([each["step_beside_bare_write_s"] / each["step_s"] for each in steps])
    return [Bar("steps beside a bare write by another process / other steps", slowdown, 1.02)]


def _slowdown(steps: Record) -> float:
    return steps["step_while_writing_s"] / steps["step_s"]


def bar_records(measured: Sequence[Bar]) -> list[Record]:
    """The bars as plain values."""
    return [{**asdict(bar), "passed": bar.passed} for bar in measured]


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
    table = Table("bar", "measured", "at most", "", title=title)
    for bar in measured:
        verdict = {True: "passed", False: "FAILED", None: "not measured"}[bar.passed]
        table.add_row(bar.name, "-" if bar.value is None else f"{bar.value:.3f}", f"{bar.limit:g}", verdict)
    return table


def _of(saves: Sequence[Record], name: str) -> float:
    return median(each[name] for each in saves)


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None
