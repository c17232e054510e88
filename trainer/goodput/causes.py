"""What the seconds of a run's life are spent on. Every second belongs to exactly one cause."""

from typing import Literal

Cause = Literal[
    "step",
    "start_up",
    "compile",
    "data_wait",
    "straggler",
    "evaluation",
    "checkpoint",
    "other",
    "lost",
    "queue",
    "down",
]

GOOD: Cause = "step"
"""The one cause that is useful: steps that no later start takes again, without their waits for data and slow ranks."""

LABELS: dict[Cause, str] = {
    "step": "steps",
    "start_up": "start-up",
    "compile": "compiling",
    "data_wait": "waiting for data",
    "straggler": "waiting for a slow rank",
    "evaluation": "evaluations",
    "checkpoint": "checkpoints",
    "other": "callbacks and reports",
    "lost": "lost steps",
    "queue": "waiting for the cluster",
    "down": "not running",
}
"""The causes in words.

start_up: from the start of a process to its first step, and what that step takes longer than the second.
compile: what train.compile compiles, or finds compiled, in the first steps and evaluations of a process.
data_wait: the longest wait of any rank for the batch of a step, since the others then wait for that rank.
straggler: what a slow rank needs longer than its peers in a step, as measured before, while it is named and still slow.
checkpoint: what training waits for: copies of the state, and saves that are not written in the background.
other: callbacks, checks, and the sinks that receive the metrics.
lost: steps after the checkpoint from which a later start resumed, so that they were taken again.
queue: from a launch, or from the end of a start, until a cluster starts the same job.
down: all other time between two starts, and what a start that was killed had not yet reported.
"""
