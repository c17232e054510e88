"""The record of a run: one JSON line per step in metrics.jsonl, and the same scalars for TensorBoard.

    {"kind": "train", "step": 7, "samples": 112, "tokens": 28672, "loss": 6.1, "lr": 0.001, "step_s": 0.2, ...}
    {"kind": "eval", "step": 7, "val_loss": 6.2}
    {"kind": "replaced", "step": 8, "g": 130, "shard": "train-000003.tar", "offset_bytes": 52736, ...}
    {"kind": "data_changed", "step": 8, "change": "data.sources.web.weight: 0.7 -> 0.6"}

JSON has no word for NaN and infinity, and a run that diverges has both: they are written as the strings "nan", "inf"
and "-inf", and read back as floats.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_DIR = "tensorboard"
FINAL_SHARE = 0.1

_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class MetricsWriter:
    """Appends to the record of a run that continues after `resume_step`, or starts afresh where that is 0.

    A run that died had often gone further than its last checkpoint. Those steps will be taken again, so their lines are
    dropped here, and the file stays one curve.
    """

    def __init__(self, run_dir: Path | str, resume_step: int = 0) -> None:
        # Imported here because it can be slow (it imports TensorFlow where there is one), and only one rank writes.
        from torch.utils.tensorboard import SummaryWriter

        run_dir = Path(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / METRICS_FILE
        _rewind(path, resume_step)
        self._file = path.open("a", encoding="ascii")
        self._tensorboard = SummaryWriter(
            str(run_dir / TENSORBOARD_DIR), purge_step=resume_step + 1 if resume_step else 0
        )

    def step(self, metrics: Mapping[str, Any]) -> None:
        """Record one optimizer step: plain numbers by name, among them `step`, the number of steps done."""
        self._write("train", metrics)

    def eval(self, step: int, val_loss: float, by_source: Mapping[str, float] | None = None) -> None:
        """Record the loss on the held-out samples after `step` steps, in nats per token: of all, and by source."""
        named = {f"val_loss/{name}": loss for name, loss in (by_source or {}).items()}
        self._write("eval", {"step": step, "val_loss": val_loss, **named})

    def note(self, kind: str, step: int, fields: Mapping[str, Any]) -> None:
        """Record something that happened, in numbers and words."""
        self._file.write(_to_line({"kind": kind, "step": step, **fields}))
        self._file.flush()

    def close(self) -> None:
        """Write out what is buffered and close both files."""
        self._file.close()
        self._tensorboard.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, kind: str, metrics: Mapping[str, Any]) -> None:
        self._file.write(_to_line({"kind": kind, **metrics}))
        self._file.flush()
        for name, value in metrics.items():
            if name != "step":
                self._tensorboard.add_scalar(f"{kind}/{name}", value, global_step=metrics["step"])


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """Return the lines of a metrics file, in order, each with its `kind` and `step`.

    A last line cut short, as a killed writer leaves it, is left out. Raises ValueError with file and line if any other
    line is not a record, and FileNotFoundError if there is no file.
    """
    *whole, last = Path(path).read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(whole, start=1):
        record = _from_line(line)
        if record is None:
            raise ValueError(f"{path}:{number} is not a line of metrics: {line[:80]!r}; mend it or delete the line")
        records.append(record)
    torn = _from_line(last)
    return records if torn is None else [*records, torn]


def final_loss(records: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean training loss over the last FINAL_SHARE of the steps recorded, nats per token."""
    losses = [record["loss"] for record in records if record["kind"] == "train"]
    last = losses[-max(1, round(FINAL_SHARE * len(losses))) :]
    return sum(last) / len(last)


def _rewind(path: Path, resume_step: int) -> None:
    """Keep the lines up to resume_step, all or nothing; a run that starts afresh keeps none."""
    if not path.exists():
        return
    records = read_metrics(path) if resume_step else []
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="ascii") as file:
        file.writelines(_to_line(record) for record in records if record["step"] <= resume_step)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _to_line(record: Mapping[str, Any]) -> str:
    plain = {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in record.items()
    }
    return json.dumps(plain, allow_nan=False) + "\n"


def _from_line(line: bytes) -> dict[str, Any] | None:
    """Return the record, or None if the line is not a whole one."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or not {"kind", "step"} <= record.keys():
        return None
    return {name: _NON_FINITE.get(value, value) if isinstance(value, str) else value for name, value in record.items()}
