"""The progress of many trials: a live table on a terminal, a line for each trial elsewhere."""

from collections.abc import Callable, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from foretrain.progress import JobProgress
from foretrain.scaling.trials.record import Outcome
from foretrain.scaling.trials.trial import Trial

COMMON_WORK = 1e6
"""The fixed cost of a trial, as a number of parameters: tiny models take time too."""


class TrialProgress(JobProgress):
    """Progress of a study: how many trials have ended, and a table of the results so far; a context manager."""

    def __init__(
        self,
        num_trials: int,
        table: Callable[[Sequence[Trial], Mapping[str, Outcome]], Table],
        console: Console | None = None,
    ) -> None:
        """`num_trials`: also of those that are not planned yet. `table` shows trials and outcomes by their keys."""
        super().__init__(0, console=console)
        self._num_trials = num_trials
        self._trials: Sequence[Trial] = ()
        self._outcomes: dict[str, Outcome] = {}
        self._num_failed = 0
        self._failed_for: dict[str, str] = {}
        """The first trial that failed for each reason, which is the last line of what a failure shows."""
        self.details = lambda: [table(self._trials, self._outcomes)]

    def plan(self, trials: Sequence[Trial], outcomes: Mapping[str, Outcome]) -> None:
        """These are all trials that are planned so far; those with an outcome are done."""
        for trial in trials:
            if trial.key in outcomes and trial.key not in self._outcomes:
                self.skip(work(trial))
        self._trials, self._outcomes = tuple(trials), dict(outcomes)
        # Trials that are not planned yet cost, on average, about as much as these.
        self.total = sum(map(work, trials)) / len(trials) * self._num_trials
        self._update_label()
        done = f", {len(outcomes)} of them are done" if outcomes else ""
        self.say(f"{self._num_trials} trials{done}")

    def end(self, trial: Trial, outcome: Outcome) -> None:
        """A trial has an outcome."""
        self._outcomes[trial.key] = outcome
        self.advance(work(trial))
        self._update_label()
        self.log(f"{self._count()}  {trial}: {in_words(outcome)}, {self.time_left()}")

    def fail(self, trial: Trial, why: str) -> None:
        """A trial has no outcome, and will not get one."""
        self._num_failed += 1
        *details, reason = why.splitlines() or [why]
        alike = self._failed_for.setdefault(reason, trial.name)
        if details and alike != trial.name:  # a wrong setting fails in all trials: its traceback is shown once
            why = f"as {alike}: {reason}"
        self.skip(work(trial))
        self._update_label()
        self.say(f"{self._count()}  {trial} FAILED ({trial.name}): {why}", style="red")

    def _count(self) -> str:
        return f"{len(self._outcomes) + self._num_failed}/{self._num_trials}"

    def _update_label(self) -> None:
        self.label = f"trials {self._count()}"


def work(trial: Trial) -> float:
    """A rough estimate of the time that a trial takes: parameters times tokens."""
    return (trial.num_params + COMMON_WORK) * trial.config.train.num_tokens


def in_words(outcome: Outcome) -> str:
    """An outcome in words."""
    if outcome.status == "diverged":
        return f"diverged at step {outcome.diverged_at}"
    held_out = f", held out {outcome.val_loss:.4f}" if outcome.val_loss is not None else ""
    return f"loss {outcome.loss:.4f}{held_out}"
