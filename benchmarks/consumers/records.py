"""The results file: a line for each consumer and family, and the tables that documents have of it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from benchmarks.consumers.comparison import LEAST_TOKENS, NOISE
from benchmarks.consumers.trl import TOLERANCE
from benchmarks.document import in_document as placed
from foretrain.files import write_atomically
from foretrain.records import entries

BEGIN, END = "<!-- python -m benchmarks.consumers writes these tables -->", "<!-- end of the tables -->"
WIDTH = 120
"""Characters of a line of a document."""
TEXTS = (
    f"At least {LEAST_TOKENS} tokens after each prompt must be equal. Another token is accepted only if our logits of "
    f"both are closer than {NOISE:g}, a near tie in fp32. Margins are the smallest and the median distance of our two "
    "largest logits."
)
STEPS = (
    f"The loss of TRL's step must be within {TOLERANCE:g} of ours of the same tokens, relative to ours. The step must "
    "change each tensor, and lower the loss of its batch."
)
_FIRST = ("", "version", "how", "family")
_OF_TEXTS = (*_FIRST, "equal tokens", "near ties", "margins", "")
_OF_STEPS = (*_FIRST, "our loss", "its loss", "difference", "after the step", "divided by", "changed tensors", "")
Record = dict[str, Any]


def key_of(record: Mapping[str, Any]) -> tuple[str, str]:
    """What names a line of the file."""
    return record["consumer"], record["family"]


def is_done(records: Sequence[Record], consumer: str, family: str, packages: Sequence[str]) -> bool:
    """Whether the file has this check, passed with these packages."""
    return any(
        key_of(each) == (consumer, family) and each["passed"] and each["packages"] == list(packages) for each in records
    )


def read(path: Path) -> list[Record]:
    """The lines of a results file; empty if there is none."""
    return entries(path)


def add(path: Path, record: Record) -> None:
    """Write a line to the file, in place of an earlier one of the same check."""
    lines = [each for each in read(path) if key_of(each) != key_of(record)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(json.dumps(each) + "\n" for each in [*lines, record]))


def tables(records: Sequence[Record]) -> str:
    """Markdown tables of all lines, with how they are judged: greedy texts, steps, and what has no result."""
    texts = [each for each in records if "fewest_tokens" in each]
    steps = [each for each in records if "our_loss" in each]
    others = [each for each in records if each not in texts and each not in steps]
    parts = []
    if texts:
        parts += [fill(TEXTS, WIDTH), _table(_OF_TEXTS, [_row_of_texts(each) for each in texts])]
    if steps:
        parts += [fill(STEPS, WIDTH), _table(_OF_STEPS, [_row_of_step(each) for each in steps])]
    if others:
        reasons = [[*key_of(each), _result(each)] for each in others]
        parts.append(_table(("", "family", "no result, because"), reasons))
    return "\n\n".join(parts)


def in_document(text: str, records: Sequence[Record]) -> str:
    """The document with the tables between its two marks. Raises ValueError if a mark is missing."""
    return placed(text, BEGIN, tables(records), END)


def _row_of_texts(record: Record) -> list[str]:
    return [
        *_first_cells(record),
        f"{record['tokens']:,} of {record['prompts']} texts",
        _noise(record),
        f"{record['smallest_margin']:.2g}, {record['median_margin']:.2g}",
        _result(record),
    ]


def _row_of_step(record: Record) -> list[str]:
    return [
        *_first_cells(record),
        f"{record['our_loss']:.6f}",
        f"{record['loss']:.6f}",
        f"{record['difference']:.1e}",
        f"{record['loss_after']:.6f}",
        "" if record["divisor"] in (None, record["tokens"]) else f"{record['divisor']} instead of {record['tokens']}",
        f"{record['changed_tensors']} of {record['tensors']}",
        _result(record),
    ]


def _first_cells(record: Record) -> list[str]:
    package, version = next(iter(record["versions"].items()))
    return [package, version, record["way"], record["family"]]


def _noise(record: Record) -> str:
    gaps = [each["gap"] for each in record["differences"] if each["is_noise"]]
    return ", ".join(f"{gap:.1e}" for gap in gaps) or "none"


def _result(record: Record) -> str:
    return "passed" if record["passed"] else record["reason"].replace("|", "/")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
