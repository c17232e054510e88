"""The sink that writes the metrics of a run as JSON lines."""

import logging
from collections.abc import Mapping
from io import FileIO
from typing import Any

from foretrain.trainer.callbacks.base import HeldOutLoss
from foretrain.trainer.metrics import METRICS_FILE, rewind, to_line
from foretrain.trainer.sinks.base import Session, Sink

logger = logging.getLogger(__name__)


class JsonLinesSink(Sink):
    """Appends each line to `metrics.jsonl` in the run folder at once.

    A run that died had often gone further than its last checkpoint. A resumed run takes those steps again, so their
    lines are removed first, and the file stays one curve. What cannot be written, such as on a full disk, is kept in
    memory, and is written before the next line that can be.
    """

    def open(self, session: Session) -> None:
        session.run_dir.mkdir(parents=True, exist_ok=True)
        self._path = session.run_dir / METRICS_FILE
        self._unwritten = bytearray()
        self._has_warned = False
        self._open_after(session.start_step)

    def rewind(self, step: int) -> None:
        self.write_out()
        self._file.close()
        self._open_after(step)

    def _open_after(self, step: int) -> None:
        try:
            missing = rewind(self._path, step, bytes(self._unwritten))
            self._unwritten.clear()
        finally:  # also if it cannot be written: then it is as it was
            self._file: FileIO = self._path.open("ab", buffering=0)
        if missing:
            logger.warning(
                "%s lacks %d steps (%d to %d), which could not be written",
                self._path,
                len(missing),
                missing[0],
                missing[-1],
            )

    def step(self, metrics: Mapping[str, float]) -> None:
        self._write({"kind": "train", **metrics})

    def evaluation(self, step: int, loss: HeldOutLoss) -> None:
        self._write({"kind": "eval", "step": step, **loss.as_metrics})

    def event(self, kind: str, step: int, fields: Mapping[str, Any], message: str) -> None:
        self._write({"kind": kind, "step": step, **fields})

    def close(self) -> None:
        self.write_out()
        try:
            self._file.close()
        except OSError as error:  # a server may say only now that it has not written what it had accepted
            logger.error("%s may lack its last lines (%s)", self._path, error.strerror)
        if self._unwritten:
            lines = self._unwritten.count(b"\n")
            logger.error("%s lacks its last lines (%d), since it cannot be written", self._path, lines)

    def _write(self, record: Mapping[str, Any]) -> None:
        self._unwritten += to_line(record).encode("ascii")
        self.write_out()

    def write_out(self) -> None:
        """Write all that is not written yet, or keep the rest."""
        try:
            while self._unwritten:
                num_written = self._file.write(self._unwritten) or 0
                del self._unwritten[:num_written]
        except OSError as error:
            if not self._has_warned:  # once: a disk that is nearly full has room now and then
                logger.warning(
                    "%s cannot be written (%s): its lines are kept in memory until it can; free some space",
                    self._path,
                    error.strerror,
                )
            self._has_warned = True
