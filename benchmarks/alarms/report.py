"""The results as a Markdown table, in a document and on the terminal. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from rich.console import Console

from benchmarks.alarms.plan import BUGS, WHAT, Bug
from benchmarks.document import in_document as placed

BEGIN, END = "<!-- python -m benchmarks.alarms writes this table -->", "<!-- end of the table -->"
Record = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """What the alarms say of runs that have the same bug, or none."""

    bug: Bug | None
    size: str
    count: int
    warned: list[float | None]
    """The share of each run of the target between the start of its bug and the warning; None: no warning. It is
    negative for a warning before the bug, and counted from the start of a sound run."""
    named: int
    """Runs that `fit` names."""
    others_named: int
    """Cases in which `fit` names another run than the judged one."""
    differences: list[float]
    """The final held-out loss of each run, over that of the sound run with its seed, minus 1; of sound runs over their
    mean."""


def row(records: Sequence[Record], size: str, bug: Bug | None) -> Row | None:
    """The row of a bug, or of the sound runs, at a size; None: no such run was made, or no sound one with its seed."""
    runs = [each for each in records if each["kind"] == "run" and each["size"] == size]
    sound = {each["seed"]: each for each in runs if each["bug"] is None}
    mine = [each for each in runs if (each["bug"], each["strength"]) == _key(bug) and each["seed"] in sound]
    if not mine:
        return None
    mean = fmean(each["val_loss"] for each in sound.values())
    return Row(
        bug,
        size,
        len(mine),
        [_warned(each) for each in mine] if size == "target" else [],
        sum(each["fit"]["is_named"] for each in mine),
        sum(bool(each["fit"]["others_named"]) for each in mine),
        [each["val_loss"] / (sound[each["seed"]]["val_loss"] if bug else mean) - 1.0 for each in mine],
    )


def spread(found: Row) -> float:
    """The standard deviation of the final losses of sound runs, as a share of their mean."""
    return stdev(found.differences) if found.count > 1 else 0.0


def _key(bug: Bug | None) -> tuple[str | None, float | None]:
    return (bug.name, bug.strength) if bug else (None, None)


def _warned(run: Record) -> float | None:
    step = run["reported_step"]
    begins = run["first_step"] if run["bug"] else 1
    return None if step is None else (step - begins + 1) / run["num_steps"]


def table(records: Sequence[Record]) -> str:
    """A Markdown table with a row for the sound runs and for each bug. Losses are in percent."""
    lines = [
        "| bug from the middle on | loss of the target | warned of | after, % of the run | named by `fit` "
        "| loss of the proxy | named by `fit` |",
        "|---|---|---|---|---|---|---|",
    ]
    for bug in (None, *BUGS):
        target, proxy = row(records, "target", bug), row(records, "proxy", bug)
        cells = [_what(bug) if bug else "none, other seeds"]
        if target is None:
            cells += [""] * 4
        else:
            known = [share for share in target.warned if share is not None]
            after = ", ".join(f"{100 * share:.1f}" for share in known) if bug else ""
            cells += [_losses(target), f"{len(known)} of {target.count}", after, f"{target.named} of {target.count}"]
        cells += [""] * 2 if proxy is None else [_losses(proxy), f"{proxy.named} of {proxy.count}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _what(bug: Bug) -> str:
    return WHAT[bug.name] if bug.name.startswith("bf16") else f"{WHAT[bug.name]} {bug.strength:g}"


def _losses(found: Row) -> str:
    if found.bug is None:
        return f"± {100 * spread(found):.2f}"
    return ", ".join(f"{100 * each:+.2f}" for each in found.differences)


def in_document(text: str, records: Sequence[Record]) -> str:
    """The document with the table between its two marks. Raises ValueError if a mark is missing."""
    return placed(text, BEGIN, table(records), END)


def print_table(records: Sequence[Record], console: Console) -> None:
    """Print the table."""
    console.print(table(records), highlight=False, markup=False, soft_wrap=True)
