"""The metrics of a run as JSON lines: their format, and how they are read.

    {"kind": "train", "step": 7, "samples": 112, "tokens": 28672, "loss": 6.1, "lr": 0.001, "step_s": 0.2, ...}
    {"kind": "eval", "step": 7, "val_loss": 6.2, "val_loss_standard_error": 0.02, "val_samples": 64, ...}
    {"kind": "eval", "step": 7, ..., "val_bits_per_byte": 2.1, "neg_log_pass_rate/copy": 21.4, "accuracy/copy": 0.0}
    {"kind": "task", "step": 0, "task": "copy", "problems": 128, "sha256": "..."}
    {"kind": "replaced", "step": 8, "g": 130, "shard": "train-000003.tar", "offset_bytes": 52736, ...}
    {"kind": "data_changed", "step": 8, "change": "data.sources.web.weight: 0.7 -> 0.6"}
    {"kind": "spike", "step": 90, "loss": 9.7, "grad_norm": 31.5, "reason": "loss 9.7 is above 6.3", ...}

JSON cannot express NaN and infinity, and a run that diverges has both. They are written as the strings "nan", "inf" and
"-inf", and read back as floats.
"""

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from foretrain.files import is_file, naming, replacing, write_atomically

METRICS_FILE = "metrics.jsonl"
VAL_LOSS = "val_loss"
VAL_BITS = "val_bits_per_byte"
"""In the record of an evaluation, its held-out loss in bits for each byte of text, which no tokenizer changes."""
NEG_LOG_PASS_RATE, ACCURACY, ACCURACY_NORM = "neg_log_pass_rate", "accuracy", "accuracy_norm"
"""In the record of an evaluation, the metrics of tasks, each followed by "/" and the name of the task."""
TASK = "task"
"""The kind of the record that says which problems the evaluations of a session have of a task."""
VAL_LOSS_ERROR = "val_loss_standard_error"
"""In the record of an evaluation, the standard error of its held-out loss; records of older versions have none."""
FINAL_SHARE = 0.1
"""Share of the steps, at the end of a run, over which its final loss is the mean."""

MAX_LINE_BYTES = 2**20
"""A longer line is no record."""
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def is_time(metric: str) -> bool:
    """Whether a metric is measured by a clock, so that two runs with one curve differ in it."""
    return metric in ("step_s", "tokens_per_s", "data_wait_s", "compile_s", "goodput") or metric.startswith("badput/")


def error_of(metric: str) -> str:
    """The name of the standard error of a metric of an evaluation, such as `val_loss_standard_error/web`."""
    kind, slash, name = metric.partition("/")
    return f"{kind}_standard_error{slash}{name}"


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """The records of a metrics file, in order, each with its `kind` and `step`: about 1,800 bytes of memory each.

    An incomplete last line, as a killed process leaves it, is left out. Raises ValueError, which names the file and the
    line, if any other line is not a record, and FileNotFoundError if there is no file.
    """
    return [*iter_metrics(path)]


def iter_metrics(path: Path | str) -> Iterator[dict[str, Any]]:
    """The records of `read_metrics` one by one, in the memory of one. Raises as it does."""
    with naming(Path(path)), Path(path).open("rb") as file:
        for record, _ in _records(path, file):
            yield record


def _records(path: Path | str, file: BinaryIO, unwritten: bytes = b"") -> Iterator[tuple[dict[str, Any], bytes]]:
    """Each record of a file, and of what could not be written to its end so far, with its line."""
    for number, line in enumerate(_lines(file, unwritten), start=1):
        record = from_line(line) if len(line) <= MAX_LINE_BYTES else None
        if record is not None:
            yield record, line
        elif line.endswith(b"\n") or len(line) > MAX_LINE_BYTES:
            raise ValueError(f"{path}:{number} is not a record of metrics: {line[:80]!r}; repair the line or delete it")


def _lines(file: BinaryIO, unwritten: bytes) -> Iterator[bytes]:
    """The lines of a file and of what follows it; the last one may be incomplete."""
    torn = b""
    while line := file.readline(MAX_LINE_BYTES + 1):
        if not line.endswith(b"\n") and len(line) <= MAX_LINE_BYTES:
            torn = line
            break
        yield line
    yield from io.BytesIO(torn + unwritten)


def final_loss(records: Sequence[Mapping[str, Any]]) -> float:
    """The mean training loss over the last FINAL_SHARE of the recorded steps that updated, in nats per token."""
    losses = [record["loss"] for record in records if record["kind"] == "train" and "skipped" not in record]
    last = losses[-max(1, round(FINAL_SHARE * len(losses))) :]
    return sum(last) / len(last)


def rewind(path: Path, resume_step: int, unwritten: bytes = b"") -> list[int]:
    """Remove the records after `resume_step` from a metrics file, all or nothing. If it is 0, all records go.

    `unwritten`: what follows in the file and could not be written so far. Returns the steps up to `resume_step` that
    the file lacks, after its first one.
    """
    if not is_file(path):
        return []
    if not resume_step:
        write_atomically(path, "", durable=True)
        return []
    has_step = bytearray(resume_step + 1)
    with naming(path), path.open("rb") as file, replacing(path, durable=True) as kept, kept.open("wb") as rest:
        for record, line in _records(path, file, unwritten):
            step = record["step"]
            if step > resume_step:
                continue
            rest.write(line if line.endswith(b"\n") else line + b"\n")
            if record["kind"] == "train":
                has_step[step] = True
    first = has_step.find(True)
    return [step for step in range(first, resume_step + 1) if not has_step[step]] if first >= 0 else []


def to_line(record: Mapping[str, Any]) -> str:
    """A record as one line of JSON."""
    plain = {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in record.items()
    }
    return json.dumps(plain, allow_nan=False) + "\n"


def from_line(line: bytes) -> dict[str, Any] | None:
    """The record in a line, or None if the line is not a complete record."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or "kind" not in record or not _is_step(record.get("step")):
        return None
    return {name: _NON_FINITE.get(value, value) if isinstance(value, str) else value for name, value in record.items()}


def _is_step(value: Any) -> bool:
    return type(value) is int and value >= 0
