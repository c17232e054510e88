"""The sink that writes the metrics of a run as JSON lines."""

from collections.abc import Mapping
from typing import Any, TextIO

from foretrain.trainer.metrics import METRICS_FILE, rewind, to_line
from foretrain.trainer.sinks.base import Session, Sink


class JsonLinesSink(Sink):
    """Appends to `metrics.jsonl` in the run folder, and flushes each line.

    A run that died had often gone further than its last checkpoint. A resumed run takes those steps again, so their
    lines are removed first, and the file stays one curve.
    """

    def open(self, session: Session) -> None:
        session.run_dir.mkdir(parents=True, exist_ok=True)
        self._path = session.run_dir / METRICS_FILE
        self._open_after(session.start_step)

    def rewind(self, step: int) -> None:
        self._file.close()
        self._open_after(step)

    def _open_after(self, step: int) -> None:
        rewind(self._path, step)
        self._file: TextIO = self._path.open("a", encoding="ascii")

    def step(self, metrics: Mapping[str, float]) -> None:
        self._write({"kind": "train", **metrics})

    def evaluation(self, step: int, val_loss: float, by_source: Mapping[str, float]) -> None:
        named = {f"val_loss/{name}": loss for name, loss in by_source.items()}
        self._write({"kind": "eval", "step": step, "val_loss": val_loss, **named})

    def event(self, kind: str, step: int, fields: Mapping[str, Any], message: str) -> None:
        self._write({"kind": kind, "step": step, **fields})

    def close(self) -> None:
        self._file.close()

    def _write(self, record: Mapping[str, Any]) -> None:
        self._file.write(to_line(record))
        self._file.flush()
