"""What a task is, and the registry of tasks. Imports no torch."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import astuple, dataclass

import numpy as np

from foretrain.registry import Registry

SEED = 0
"""The seed of the problems of every evaluation: runs whose seeds differ are evaluated on the same problems."""


@dataclass(frozen=True)
class Problem:
    """A text, and the only text that may follow it."""

    prompt: str
    answer: str
    """It ends with what shows that it is complete, such as a newline: 4 is not the answer to a sum that is 46."""

    def __post_init__(self) -> None:
        if not self.answer:
            raise ValueError(f"the problem {self.prompt!r} of a task has an empty answer: give it one")


Task = Callable[[np.random.Generator], Problem]
"""Makes one problem, from a source of random numbers alone."""

TASKS: Registry[Task] = Registry("task", "train.eval_tasks")


def problems_of(name: str, count: int, seed: int = SEED) -> list[Problem]:
    """The first `count` problems of a task. Problem number i depends on the seed and on i alone.

    Raises ValueError if there is no such task.
    """
    task = TASKS.get(name)
    return [task(np.random.default_rng([seed, number])) for number in range(count)]


def fingerprint(problems: list[Problem]) -> str:
    """A SHA-256, in hex, that changes with any character of any problem."""
    return hashlib.sha256(json.dumps([astuple(each) for each in problems]).encode()).hexdigest()
