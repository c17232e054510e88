"""Contestants with a planted bug, for tests of the benchmark of training."""

from dataclasses import replace
from typing import Any

from benchmarks.train import bare
from benchmarks.train.pace import Job


def other(job: Job, **changes: Any) -> None:
    """The bare loop, which does another task than it is asked for."""
    bare.bare(replace(job, task=replace(job.task, **changes)))


def fails_later(job: Job) -> None:
    """The bare loop, which fails after the steps that are checked."""
    end_step, num_steps = job.pace.end_step, 0

    def counted(*args: Any) -> None:
        nonlocal num_steps
        num_steps += 1
        if num_steps > 6:
            raise RuntimeError("the planted failure")
        end_step(*args)

    setattr(job.pace, "end_step", counted)  # noqa: B010 (a type checker allows no method of an instance)
    bare.bare(job)
