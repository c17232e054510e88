"""What a run does between forward passes, backward passes and updates: how much, and when garbage is collected."""

import gc
import sys
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import pytest

from foretrain.configs.schema import ParallelConfig
from foretrain.parallel.groups import init_groups
from foretrain.trainer import garbage
from foretrain.trainer.callbacks.base import Callback, Step
from foretrain.trainer.run.setup import Run, prepare_run
from foretrain.trainer.trainer import Trainer
from tests.conftest import RunOnRanks
from tests.trainer.test_resume import config

NUM_STEPS = 24
MAX_CALLS = 1000
"""Calls of functions in a step, about half a microsecond each; of a small model they are 771."""


class Calls(Callback):
    """Counts the calls of Python and C functions in each step of this thread, without those inside of some methods."""

    def __init__(self) -> None:
        self.of_steps: list[int] = []
        self._number, self._num_inside = 0, 0

    def leave_out(self, owner: Any, name: str) -> None:
        method = getattr(owner, name)

        def uncounted(*args: Any, **keywords: Any) -> Any:
            self._num_inside += 1
            try:
                return method(*args, **keywords)
            finally:
                self._num_inside -= 1

        setattr(owner, name, uncounted)

    def _count(self, frame: Any, event: str, argument: Any) -> None:
        self._number += event in ("call", "c_call") and not self._num_inside

    def after_step(self, trainer: Trainer, step: Step) -> None:
        self.of_steps.append(self._number)
        self._number = 0
        sys.setprofile(self._count)

    def on_close(self, trainer: Trainer) -> None:
        sys.setprofile(None)


class Collections(Callback):
    """Notes in which steps garbage is collected, and which generation."""

    def __init__(self) -> None:
        self.found: list[tuple[int, int]] = []
        self._step = 0

    def _note(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self.found.append((self._step, info["generation"]))

    def before_step(self, trainer: Trainer, number: int, batch: Any) -> None:
        self._step = number
        if self._note not in gc.callbacks:
            gc.callbacks.append(self._note)
        self._kept = [[number] for _ in range(2000)]  # Python would collect here

    def on_close(self, trainer: Trainer) -> None:
        gc.callbacks.remove(self._note)


def calls_of_steps(run: Run, is_planted: bool) -> list[int]:
    """Calls of functions in each step, without those of forward passes, backward passes and the optimizer.

    Planted: as many calls as are allowed, in the loop over the steps.
    """
    calls = Calls()
    trainer = Trainer(run, init_groups(run.layout, "cpu", timeout_s=60.0), callbacks=[calls])
    zero = trainer.engine.zero
    for owner, name in ((zero.module, "forward"), (zero, "backward"), (zero.optimizer, "step")):
        calls.leave_out(owner, name)
    if is_planted:
        decide = trainer._decide_end

        def slow(step: Step) -> None:
            for _ in range(MAX_CALLS):
                len("")
            decide(step)

        trainer._decide_end = slow  # type: ignore[method-assign]
    trainer.fit()
    return calls.of_steps[2:-1]  # the first ones import modules, and the last one writes a checkpoint


def collections_of_steps(run: Run, is_planted: bool) -> tuple[list[tuple[int, int]], list[bool]]:
    """Steps and generations of collections on this rank, and whether Python collects by itself after a fit.

    It does before the first fit, and does not before the second. Planted: it does in the first fit, too.
    """
    noted, states = Collections(), []
    groups = init_groups(run.layout, "cpu", timeout_s=60.0)
    with mock.patch.multiple(garbage, YOUNG_EVERY=5, FULL_EVERY=10):
        with mock.patch.object(gc, "disable") if is_planted else nullcontext():
            Trainer(run, groups, callbacks=[noted]).fit()
        states.append(gc.isenabled())
        gc.disable()
        Trainer(prepare_run(run.config), groups).fit()
        states.append(gc.isenabled())
    return noted.found, states


def steps(number: int) -> dict[str, int]:
    """The setting of a budget of that many steps."""
    return {"num_tokens": number * 8 * 32}


@pytest.mark.parametrize("is_planted", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_step_calls_few_functions_beside_its_computations(
    is_planted: bool, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    settings = config(tmp_path, corpus, ParallelConfig(), **steps(NUM_STEPS), eval_every=0)
    (calls,) = ranks(1, calls_of_steps, prepare_run(settings), is_planted)
    assert len(calls) == NUM_STEPS - 3
    assert (median(calls) > MAX_CALLS) == is_planted, calls


@pytest.mark.parametrize("is_planted", [False, pytest.param(True, marks=pytest.mark.long)])
def test_ranks_collect_garbage_at_the_same_steps_and_leave_the_collector_as_it_was(
    is_planted: bool, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    settings = config(tmp_path, corpus, ParallelConfig(dp=2), **steps(13), eval_every=0, sinks=[])
    for found, states in ranks(2, collections_of_steps, prepare_run(settings), is_planted):
        in_steps = [each for each in found if each[0] <= 12]
        assert (in_steps != [(5, 1), (10, 2)]) == is_planted, found
        assert states == [True, False]
