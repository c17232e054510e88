"""What pairs of steps say: ratios with their intervals, and whether the gate has hidden work of the writer."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from rich.table import Table

Record = dict[str, Any]
MIB = 2**20
SAVED = ("begin", "writing", "end")
"""The kinds of pairs that are, in their proportion, the steps beside a save."""
CONFIDENCE = 0.95
NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class Ratio:
    """The seconds of some steps, as a multiple of those of their pairs, with the interval of `CONFIDENCE`."""

    value: float
    low: float
    high: float
    num_pairs: int


def ratio(beside: Sequence[float], without: Sequence[float]) -> Ratio | None:
    """The ratio of the sums. Its interval is that of sums over as many pairs, drawn from these with replacement."""
    if not beside:
        return None
    both = np.array([beside, without])
    draws = np.random.default_rng(0).multinomial(len(beside), np.full(len(beside), 1 / len(beside)), NUM_RESAMPLES)
    sums = both @ draws.T
    low, high = np.quantile(sums[0] / sums[1], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Ratio(float(both[0].sum() / both[1].sum()), float(low), float(high), len(beside))


def column(records: Sequence[Record], name: str, kinds: Collection[str]) -> list[float]:
    """One number of all pairs of some kinds."""
    return [
        value
        for each in records
        if each["type"] == "steps" and "kind" in each
        for kind, value in zip(each["kind"], each[name], strict=True)
        if kind in kinds
    ]


def slowdown(records: Sequence[Record], kinds: Collection[str] = SAVED, unit: str = "s") -> Ratio | None:
    """How much longer steps are beside a save; `unit` "cpu_s": in seconds of CPU of the thread that trains."""
    return ratio(column(records, f"beside_{unit}", kinds), column(records, f"without_{unit}", kinds))


def slowest_ranks(ranks: Sequence[Record]) -> Record:
    """One record of the pairs of all ranks: of each number of a step the largest."""
    merged = dict(ranks[0])
    for name, values in merged.items():
        if name not in ("kind", "num_saves"):
            merged[name] = [max(each) for each in zip(*(rank[name] for rank in ranks), strict=True)] or values
    return merged


def steps_table(records: Sequence[Record]) -> Table:
    """A row for each kind of pairs, and one for all that are beside a save with the gate."""
    table = Table("steps", title="Steps beside a save, and their pairs without")
    names = ("pairs", "ratio (95 %)", "median", "of CPU", "written, MB/s", "other CPU", "to the disk, MB/s")
    for name in names:
        table.add_column(name, justify="right")
    rows = {"all of a save": SAVED} | {kind: (kind,) for kind in _kinds(records)}
    for name, kinds in rows.items():
        found, of_cpu = slowdown(records, kinds), slowdown(records, kinds, "cpu_s")
        if found is None or of_cpu is None:
            continue
        pairs = zip(column(records, "beside_s", kinds), column(records, "without_s", kinds), strict=True)
        shares = [_per_second(records, each, kinds) for each in ("written_bytes", "other_cpu_s", "disk_bytes")]
        table.add_row(
            name,
            str(found.num_pairs),
            f"{found.value:.4f} ({found.low:.4f} to {found.high:.4f})",
            f"{median(beside / without for beside, without in pairs):.4f}",
            f"{of_cpu.value:.4f}",
            f"{shares[0][0] / 1e6:.0f}, {shares[0][1] / 1e6:.0f}",
            f"{shares[1][0]:.3f}, {shares[1][1]:.3f}",
            f"{shares[2][0] / 1e6:.0f}, {shares[2][1] / 1e6:.0f}",
        )
    return table


def _per_second(records: Sequence[Record], name: str, kinds: Collection[str]) -> tuple[float, float]:
    """A number of the steps beside a save for each second of them, and the same without."""
    beside, without = (
        sum(column(records, f"{side}_{name}", kinds)) / sum(column(records, f"{side}_s", kinds))
        for side in ("beside", "without")
    )
    return beside, without


def _kinds(records: Sequence[Record]) -> list[str]:
    return sorted({kind for each in records if "kind" in each for kind in each["kind"]})
