"""Reads the numbers that a run adds to its metrics.jsonl, from where the last reading ended."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from foretrain.trainer.metrics import MAX_LINE_BYTES, from_line

KINDS = ("train", "eval")
"""Kinds of records whose numbers are points of a curve."""


@dataclass(frozen=True)
class Point:
    """The numbers of a step, or of an evaluation after it."""

    kind: str
    step: int
    values: dict[str, float]
    """By the name of the kind and of the metric, such as train/loss; they may be NaN or infinite."""
    time_ms: int
    """When it was read, in milliseconds since 1970, as trackers want. The file has no times."""


class Follower:
    """Reads a file of metrics while another thread appends to it. It may not exist yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BufferedReader | None = None

    def read(self) -> Iterator[Point]:
        """The points of the lines that are complete and were not read before.

        Raises OSError if the file cannot be read.
        """
        if self._file is None:
            try:
                self._file = self._path.open("rb")
            except FileNotFoundError:
                return
        while True:
            start = self._file.tell()
            line = self._file.readline(MAX_LINE_BYTES + 1)
            if not line.endswith(b"\n"):
                self._file.seek(start)  # a part of a line, of which the rest is not written yet
                return
            record = from_line(line)
            if record is not None and record["kind"] in KINDS:
                yield _point(record["kind"], record)

    def restart(self) -> None:
        """Read from the start of the file, which may be another one now."""
        if self._file is not None:
            self._file.close()
        self._file = None


def _point(kind: str, record: dict[str, object]) -> Point:
    numbers = {
        f"{kind}/{name}": float(value)
        for name, value in record.items()
        if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
    }
    step = record["step"]
    assert isinstance(step, int)
    return Point(kind, step, numbers, time.time_ns() // 1_000_000)
