"""Medians, bars and tables of the records of the data benchmark."""

from collections import defaultdict
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.table import Table

from benchmarks.data.contest import Contestant
from benchmarks.data.ours import LIMIT, OURS

PER_DOCUMENT = "webdataset, documents"

Record = dict[str, Any]


@dataclass(frozen=True)
class Bar:
    """A promise about a number, and its measured value."""

    bar: str
    value: float | None
    """Measured value; None: not measured."""
    limit: float
    at_least: bool
    """Whether the value must be at least the limit; otherwise it must be below the limit."""

    @property
    def passed(self) -> bool | None:
        """Whether the promise is kept; None: not measured."""
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value < self.limit


def fastest_workers(records: list[Record]) -> dict[str, int]:
    """Return the value of num_workers with which each contestant was fastest."""
    best: dict[str, Record] = {}
    for record in records:
        name = record["contestant"]
        if "mtok_s" in record and (name not in best or record["mtok_s"] > best[name]["mtok_s"]):
            best[name] = record
    return {name: record["num_workers"] for name, record in best.items()}


def summarize(records: list[Record], contestants: list[Contestant]) -> dict[str, Record]:
    """Return the medians over the rounds of each contestant, at its fastest num_workers, or why there are none."""
    workers = fastest_workers([record for record in records if record["round"] == 0])
    limit = {r["round"]: r["mtok_s"] for r in records if r["contestant"] == LIMIT and "mtok_s" in r}
    runs: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record["num_workers"] == workers.get(record["contestant"]) and "mtok_s" in record:
            runs[record["contestant"]].append(record)
    summary: dict[str, Record] = {}
    for contestant in contestants:
        name = contestant.name
        if name not in runs:
            reasons = [r for r in records if r["contestant"] == name]
            summary[name] = {key: r[key] for r in reasons for key in ("missing", "failed") if key in r}
            continue
        shares = [run["mtok_s"] / limit[run["round"]] for run in runs[name] if run["round"] in limit]
        keys = ("mtok_s", "mtok_cpu_s", "start_s", "resume_s", "peak_mib", "peak_anonymous_mib")
        summary[name] = {
            "num_workers": workers[name],
            **{key: median(run[key] for run in runs[name]) for key in keys if all(key in run for run in runs[name])},
            "of_memmap": median(shares) if shares else None,
            "resumes_by": runs[name][0].get("resumes_by"),
            "resumes_exactly": all(run.get("resumes_exactly", False) for run in runs[name]),
        }
    return summary


def bars(summary: dict[str, Record], contestants: list[Contestant], scale: Record) -> list[Bar]:
    """Return the promises of the token stream."""
    ours = summary.get(OURS, {}).get("mtok_s")
    peers = {c.name: summary[c.name]["mtok_s"] for c in contestants if c.is_peer and "mtok_s" in summary[c.name]}
    per_document = peers.pop(PER_DOCUMENT, None)
    best = max(peers, key=lambda name: peers[name], default=None)
    return [
        Bar("share of memmap's Mtok/s", summary.get(OURS, {}).get("of_memmap"), 0.5, True),
        Bar("times webdataset per document", ours / per_document if ours and per_document else None, 10, True),
        Bar(
            f"times the fastest other peer ({best or 'none measured'})",
            ours / peers[best] if ours and best else None,
            1,
            True,
        ),
        Bar("resume in 10 billion samples, slowest of all tried, ms", scale.get("resume_ms"), 50, False),
        Bar("memory with the index of 10 TB, MB", scale.get("index_peak_mb"), 1000, False),
    ]


def bar_records(measured: list[Bar]) -> list[Record]:
    """Return the bars as plain values."""
    return [{**asdict(bar), "passed": bar.passed} for bar in measured]


def contest_table(summary: dict[str, Record]) -> Table:
    """Return a table with one row for each contestant."""
    columns = ("Mtok/s", "of memmap", "workers", "start, s", "resume, s", "exactly", "peak RSS, MiB", "anonymous, MiB")
    table = Table("contestant", title="Ready batches, medians over the rounds")
    for column in columns:
        table.add_column(column, justify="right")
    for name, record in summary.items():
        if "mtok_s" not in record:
            reason = f"missing: {record['missing']}" if "missing" in record else str(record.get("failed", ""))[:80]
            table.add_row(name, reason)
            continue
        resume = f"{record['resume_s']:.3f}" if "resume_s" in record else "-"
        table.add_row(
            name,
            f"{record['mtok_s']:.1f}",
            "-" if record["of_memmap"] is None else f"{record['of_memmap']:.2f}",
            str(record["num_workers"]),
            f"{record['start_s']:.3f}",
            resume + (" (skips)" if record["resumes_by"] == "skipping" else ""),
            "yes" if record["resumes_exactly"] else "no",
            f"{record['peak_mib']:.0f}",
            f"{record['peak_anonymous_mib']:.0f}",
        )
    return table


def bar_table(measured: list[Bar]) -> Table:
    """Return a table with one row for each promise."""
    table = Table("promise", "measured", "bar", "", title="Bars")
    for bar in measured:
        verdict = {True: "passed", False: "FAILED", None: "not measured"}[bar.passed]
        value = "-" if bar.value is None else f"{bar.value:.3g}"
        table.add_row(bar.bar, value, f"{'at least' if bar.at_least else 'below'} {bar.limit:g}", verdict)
    return table
