"""The callback that writes down what the time of a run is spent on, and reports its goodput."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from foretrain.data_pipeline.stream.batch import Batch
from foretrain.files import write_atomically
from foretrain.parallel.groups import Groups
from foretrain.trainer.callbacks.base import Callback, Step
from foretrain.trainer.goodput import facts
from foretrain.trainer.goodput.causes import GOOD, LABELS
from foretrain.trainer.goodput.clock import Clock
from foretrain.trainer.goodput.facts import Fact
from foretrain.trainer.goodput.ledger import Ledger
from foretrain.trainer.goodput.view import as_metrics, as_record
from foretrain.trainer.run.setup import Run

if TYPE_CHECKING:
    from foretrain.trainer.trainer import Trainer

MAX_UNREPORTED_SHARE, MAX_UNREPORTED_S = 0.01, 60.0
"""Rank 0 writes a line after the first step at which so large a share of its session, or that many seconds, are
unreported. So a kill loses at most this much of the account, or one step. The file grows by at most a line a minute
after the first hundred minutes, and by a few hundred lines before."""


class Goodput(Callback):
    """Counts each step of a session, adds the run's goodput to the metrics now and then, and writes its ledger.

    The metrics `goodput` and `badput/CAUSE` come every `train.log_every` steps and at the last step. They are shares of
    the life of the run, over all its starts, up to the last line of the ledger. Rank 0 alone measures and writes.
    """

    def __init__(self, clock: Clock, run: Run, groups: Groups) -> None:
        """`clock`: counts for "start_up" since the start of this rank; the loop over the steps also uses it."""
        self._clock, self._groups = clock, groups
        self._run_dir, self._every = run.run_dir, run.config.train.log_every
        self._layout = str(groups.layout)
        self._ledger = Ledger(facts.read(run.run_dir)) if groups.rank == 0 else None
        self._started_s = self._written_s = time.monotonic()
        self._step: int | None = None
        self._unreported = 0
        self._first_step_s: float | None = None
        self._is_warm = False

    def on_fit_start(self, trainer: Trainer) -> None:
        self._step = trainer.run.start_step
        self._write("begin")

    def before_step(self, trainer: Trainer, number: int, batch: Batch) -> None:
        if self._step is not None and number <= self._step:  # the run went back to a checkpoint
            self._write("steps")
            self._step = number - 1
            self._write("steps")  # a line without steps: those after it are taken again

    def on_step(self, trainer: Trainer, step: Step) -> None:
        self._count(step)
        self._step, self._unreported = step.number, self._unreported + 1
        if step.is_last or step.number % self._every == 0:
            step.metrics |= as_metrics(dict(zip(LABELS, self._shares(), strict=True)))

    def after_step(self, trainer: Trainer, step: Step) -> None:
        # A line ends where a checkpoint is written, so that a resume from it loses complete lines.
        if step.save or (self._is_warm and self._is_line_due()):
            self._write("steps")

    def close(self) -> None:
        """Write the end of the session, however it ended, and the account of the run's life."""
        self._write("end")
        if self._ledger is not None:
            with suppress(OSError):  # such as a full disk
                write_atomically(self._run_dir / facts.GOODPUT_FILE, json.dumps(as_record(self._ledger), indent=1))

    def _count(self, step: Step) -> None:
        """Count the time of a step, which the clock has counted for what comes between steps, for the step."""
        clock, step_s = self._clock, step.metrics["step_s"]
        step_s -= step.metrics.get("compile_s", 0.0)  # which is counted already
        wait_s = min(step_s, step.metrics["data_wait_s"])
        clock.move(wait_s, clock.cause, "data_wait")
        clock.move(step_s - wait_s, clock.cause, GOOD)
        if self._first_step_s is None:
            self._first_step_s = step_s - wait_s
            clock.enter("other")
        elif not self._is_warm:
            self._is_warm = True
            clock.move(self._first_step_s - (step_s - wait_s), GOOD, "start_up")

    def _is_line_due(self) -> bool:
        now_s = time.monotonic()
        return now_s - self._written_s >= min(MAX_UNREPORTED_S, MAX_UNREPORTED_SHARE * (now_s - self._started_s))

    def _write(self, kind: facts.Kind) -> None:
        """On rank 0, write a line with what was spent since the line before."""
        if self._ledger is None:
            return
        spent_s = {cause: round(seconds, 6) for cause, seconds in self._clock.read().items()}
        fact = Fact(
            kind,
            round(time.time(), 6),
            step=self._step,
            layout=self._layout if kind == "begin" else "",
            steps=self._unreported,
            spent_s=spent_s,
        )
        try:
            facts.append(self._run_dir, fact)
        except OSError:  # such as a full disk: the run continues, and the next line has this time too
            return
        self._ledger.add(fact)
        self._clock.forget()
        self._unreported, self._written_s = 0, time.monotonic()

    def _shares(self) -> list[float]:
        """The share of each cause, in the order of LABELS, the same on every rank."""
        shares = torch.zeros(len(LABELS), dtype=torch.float64)
        if self._ledger is not None:
            shares = torch.tensor([*self._ledger.shares.values()], dtype=torch.float64)
        dist.broadcast(shares, group=self._groups.cpu, group_src=0)
        return shares.tolist()
