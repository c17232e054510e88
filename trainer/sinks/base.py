"""What receives the report of a run: the base class of sinks, and the reporter that passes a report to all of them."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from foretrain.configs.schema import Config
from foretrain.registry import Registry
from foretrain.trainer.callbacks.base import HeldOutLoss


@dataclass(frozen=True)
class Session:
    """The part of a run that this start of it trains: the steps from `start_step` + 1 to `total_steps`."""

    config: Config
    run_dir: Path
    start_step: int
    total_steps: int
    tokens_per_step: int


class Sink:
    """Receives the report of a run. Every method of this base class does nothing.

    Only rank 0 opens its sinks and writes to them, so a sink may not use collectives. `open` comes first, once, and
    `close` last, also when the run fails.
    """

    options: ClassVar[Mapping[str, str]] = {}
    """Settings of its own, `train.sink_options.NAME.OPTION`, with their defaults."""
    settings: Mapping[str, str] = {}
    """Every option, with the config's value, of a sink that a config names; see `sinks/chosen.py`."""

    @classmethod
    def check(cls, settings: Mapping[str, str]) -> None:
        """Raise ValueError, with what to change, if the sink cannot work here with these settings.

        It is called before the ranks of a run start. A message begins with the name of an option, or with that of what
        is missing.
        """

    def open(self, session: Session) -> str | None:
        """Prepare to receive the report of a session. Returns a line for a person who watches the run, if any."""

    def step(self, metrics: Mapping[str, float]) -> None:
        """Receive the metrics of one optimizer step, among them `step`, `loss`, `grad_norm`, `lr` and `step_s`."""

    def evaluation(self, step: int, loss: HeldOutLoss) -> None:
        """Receive the held-out loss after `step` steps."""

    def event(self, kind: str, step: int, fields: Mapping[str, Any], message: str) -> None:
        """Receive something that happened at `step`: as named fields that JSON can hold, and as one line of text."""

    def message(self, text: str) -> None:
        """Receive one line of text for a person who watches the run."""

    def rewind(self, step: int) -> None:
        """The run goes back to its state after `step` steps, and takes the later ones again: forget their report."""

    def close(self) -> None:
        """Write out what is buffered, and release files and connections."""


SINKS: Registry[Callable[[], Sink]] = Registry("sink", "train.sinks")
"""Makers of the sinks that a config can name."""


class Reporter(ExitStack):
    """Passes the report of a run to its sinks. A context manager. It has sinks on rank 0 only."""

    def __init__(self, sinks: Sequence[Sink], session: Session) -> None:
        super().__init__()
        self._sinks, self._session = sinks, session

    def __enter__(self) -> Self:
        lines = []
        with ExitStack() as opened:  # which closes them if the next one cannot be opened
            for sink in self._sinks:
                lines.append(sink.open(self._session))
                opened.callback(sink.close)
            for line in filter(None, lines):
                self.message(line)
            self.push(opened.pop_all())
        return self

    def step(self, metrics: Mapping[str, float]) -> None:
        """Report one optimizer step."""
        for sink in self._sinks:
            sink.step(metrics)

    def evaluation(self, step: int, loss: HeldOutLoss) -> None:
        """Report one evaluation."""
        for sink in self._sinks:
            sink.evaluation(step, loss)

    def event(self, kind: str, step: int, fields: Mapping[str, Any], message: str) -> None:
        """Report something that happened."""
        for sink in self._sinks:
            sink.event(kind, step, fields, message)

    def rewind(self, step: int) -> None:
        """Report that the run goes back to its state after `step` steps."""
        for sink in self._sinks:
            sink.rewind(step)

    def message(self, text: str) -> None:
        """Report one line of text."""
        for sink in self._sinks:
            sink.message(text)
