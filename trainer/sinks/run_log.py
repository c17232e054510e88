"""The sink that keeps the report of a run as text, with times, in the folder of the run."""

import logging
import time
from contextlib import ExitStack

from foretrain.printable import quotable
from foretrain.trainer.run.folder import RUN_LOG
from foretrain.trainer.sinks.appended import AppendedFile
from foretrain.trainer.sinks.base import Session
from foretrain.trainer.sinks.lines import LinesSink

_LOGGER = logging.getLogger("foretrain")
"""The logger of all modules of the project."""


class RunLogSink(LinesSink):
    """Appends the lines that a run prints without a terminal to `run.log`, each after its time, with the warnings of
    rank 0 among them. Every start of the run adds to the file, and nothing is taken from it."""

    def open(self, session: Session) -> None:
        super().open(session)
        self.lines = AppendedFile(session.run_dir / RUN_LOG)
        self._stack = ExitStack()
        if not _LOGGER.hasHandlers() and logging.lastResort is not None:
            # Python prints warnings on stderr as long as no logger has a handler: they are printed still.
            self._handle(logging.lastResort)
        self._handle(_ToSink(self))

    def message(self, text: str) -> None:
        now = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime())
        self.lines.append(f"{now}  {quotable(text)}\n")

    def close(self) -> None:
        super().close()
        self._stack.close()
        self.lines.close()

    def _handle(self, handler: logging.Handler) -> None:
        _LOGGER.addHandler(handler)
        self._stack.callback(_LOGGER.removeHandler, handler)


class _ToSink(logging.Handler):
    """Makes a line of each warning of the process."""

    def __init__(self, sink: RunLogSink) -> None:
        super().__init__(logging.WARNING)
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        self._sink.message(f"{record.levelname.lower()}: {record.getMessage()}")
