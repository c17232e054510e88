"""The callback that reports what is compiled, and counts its time."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from foretrain.data_pipeline.stream.batch import Batch
from foretrain.trainer.callbacks.base import Callback, Step
from foretrain.trainer.compilation.watch import watching
from foretrain.trainer.goodput.clock import Clock

if TYPE_CHECKING:
    from foretrain.trainer.trainer import Trainer


class CompilationReport(Callback):
    """Adds the seconds in which rank 0 compiled to the metrics of a step, `compile_s`, and reports what it compiled.

    Most is compiled in the first step and in the first evaluation. If torch compiles a function no more, since it had
    to be compiled again and again, the run continues without that, and says so once.
    """

    def __init__(self, spent: Clock) -> None:
        """`spent`: counts what the time of the run is spent on."""
        self._spent = spent
        self._until_close = ExitStack()

    def on_fit_start(self, trainer: Trainer) -> None:
        self._compiled = self._until_close.enter_context(watching(self._spent))
        self._num_reported, self._reported_s, self._has_given_up = 0, 0.0, False

    def before_step(self, trainer: Trainer, number: int, batch: Batch) -> None:
        self._before_s = self._compiled.seconds

    def on_step(self, trainer: Trainer, step: Step) -> None:
        compiled = self._compiled
        if compiled.seconds > self._before_s:
            step.metrics["compile_s"] = compiled.seconds - self._before_s
        if compiled.num_functions > self._num_reported:
            number, seconds = compiled.num_functions - self._num_reported, compiled.seconds - self._reported_s
            trainer.report.message(
                f"step {step.number}: compiled {number} functions in {seconds:.1f} s; earlier starts have left "
                f"{compiled.num_found} of all {compiled.num_functions}"
            )
            self._num_reported, self._reported_s = compiled.num_functions, compiled.seconds
        if compiled.given_up and not self._has_given_up:
            self._has_given_up = True
            trainer.report.event(
                "compile_limit",
                step.number,
                {"function": compiled.given_up},
                f"step {step.number}: torch compiles a function no more, since its calls need ever new versions, and "
                f"the run continues without them: set train.compile=false if it is slow ({compiled.given_up})",
            )

    def on_close(self, trainer: Trainer) -> None:
        self._until_close.close()
