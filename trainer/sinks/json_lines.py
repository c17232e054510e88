"""The sink that writes the metrics of a run as JSON lines."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from foretrain.trainer.callbacks.base import HeldOutLoss
from foretrain.trainer.metrics import METRICS_FILE, rewind, to_line
from foretrain.trainer.sinks.appended import AppendedFile
from foretrain.trainer.sinks.base import Session, Sink

logger = logging.getLogger(__name__)


class JsonLinesSink(Sink):
    """Appends each line to `metrics.jsonl` in the run folder at once, or as soon as it can be written.

    A run that died had often gone further than its last checkpoint. A resumed run takes those steps again, so their
    lines are removed first, and the file stays one curve.
    """

    def open(self, session: Session) -> None:
        session.run_dir.mkdir(parents=True, exist_ok=True)
        path = session.run_dir / METRICS_FILE
        _report(path, rewind(path, session.start_step))
        self.lines = AppendedFile(path)

    def rewind(self, step: int) -> None:
        _report(self.lines.path, self.lines.replace(partial(rewind, self.lines.path, step)))

    def step(self, metrics: Mapping[str, float]) -> None:
        self._write({"kind": "train", **metrics})

    def evaluation(self, step: int, loss: HeldOutLoss) -> None:
        self._write({"kind": "eval", "step": step, **loss.as_metrics})

    def event(self, kind: str, step: int, fields: Mapping[str, Any], message: str) -> None:
        self._write({"kind": kind, "step": step, **fields})

    def close(self) -> None:
        self.lines.close()

    def _write(self, record: Mapping[str, Any]) -> None:
        self.lines.append(to_line(record))


def _report(path: Path, missing: Sequence[int]) -> None:
    """Warn of steps that a file lacks."""
    if missing:
        logger.warning(
            "%s lacks %d steps (%d to %d), which could not be written", path, len(missing), missing[0], missing[-1]
        )
