"""The results of predicted tables: their file, and a Markdown table of them in a document."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.document import in_document as placed

BEGIN, END = "<!-- python -m benchmarks.tables writes this table -->", "<!-- end of the table -->"
KEY = ("table", "ratio", "lowest")
"""What a line of results is for."""


def merged(path: Path, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results in a file, if there is one, with those of `records` in the place of older ones, or after them."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = {tuple(each[name] for name in KEY): each for each in [*map(json.loads, lines), *records]}
    return list(found.values())


def table(records: Sequence[dict[str, Any]]) -> str:
    """A Markdown table with a row for each table and ratio. Errors and widths are in percent of the loss."""
    lines = [
        "| table | compute of the target | predicted | median error, of a fit to all | in 80, 90, 95 % "
        "| mean, median width (90 %) | largest run | power law |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in records:
        cells = [each["table"], f"{each['ratio']:g}x", f"{each['predicted']} of {each['targets']}"]
        if each["predicted"]:
            cells += [
                ", ".join(_percent(each[name]) for name in ("median_error", "median_residual") if name in each),
                ", ".join(f"{100 * each[f'inside_{level}']:.0f}" for level in ("0.8", "0.9", "0.95")),
                f"{_percent(each['mean_width'])}, {_percent(each['median_width'])}",
                *(_percent(each[f"median_error_of_{name}"]) for name in ("largest_run", "power_law")),
            ]
        else:
            cells += [""] * 5
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def in_document(text: str, records: Sequence[dict[str, Any]]) -> str:
    """The document with the table between its two marks. Raises ValueError if a mark is missing."""
    return placed(text, BEGIN, table(records), END)
