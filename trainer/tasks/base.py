"""What a task is, and the registry of tasks. Imports no torch."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from foretrain.registry import Registry
from foretrain.trainer.tasks.held_out_text import NO_TEXT, HeldOutText

SEED = 0
"""The seed of the problems of every evaluation: runs whose seeds differ are evaluated on the same problems."""


@dataclass(frozen=True)
class Problem:
    """A text, and the only text that may follow it."""

    prompt: str
    answer: str
    """Without choices, it should end with what shows that it is complete, such as a newline: 4 is not the answer to a
    sum that is 46."""
    choices: tuple[str, ...] = ()
    """The texts of which the answer is one, each of them once; (): any text could follow."""

    def __post_init__(self) -> None:
        if not self.answer:
            raise ValueError(f"the problem {self.prompt!r} of a task has an empty answer: give it one")
        if self.choices and not len(self.choices) == len(set(self.choices)) > self.choices.count(self.answer) == 1:
            raise ValueError(
                f"the problem {self.prompt!r} of a task has the choices {self.choices}: give it two or more different "
                f"ones, of which one is the answer {self.answer!r}"
            )


Task = Callable[[np.random.Generator], Problem]
"""Makes one problem, from a source of random numbers alone."""


@dataclass(frozen=True)
class TextTask:
    """A task whose problems are made of the held-out text of the data."""

    make: Callable[[Sequence[str], np.random.Generator], Iterator[Problem]]
    """make(documents, random): the problems, one after the other, until the documents have no more."""


TASKS: Registry[Task | TextTask] = Registry("task", "train.eval_tasks")


def problems_of(name: str, count: int, text: HeldOutText = NO_TEXT, seed: int = SEED) -> list[Problem]:
    """The first `count` problems of a task. They depend on the seed alone; those of a `TextTask` on `text` too.

    Raises ValueError if there is no such task, or if the text has fewer problems, and CorpusError if it cannot be read.
    """
    task = TASKS.get(name)
    if not isinstance(task, TextTask):
        return [task(np.random.default_rng([seed, number])) for number in range(count)]
    found = list(islice(task.make(text.documents, np.random.default_rng(seed)), count))
    if len(found) < count:
        raise ValueError(
            f"the held-out text of {text.where} has {len(found)} problems of the task '{name}', and {count} are asked "
            "for: prepare it with a larger --val-fraction, or ask for fewer (train.eval_problems, or --limit of eval)"
        )
    return found


def fingerprint(problems: list[Problem]) -> str:
    """A SHA-256, in hex, that changes with any character of any problem."""
    texts = [(each.prompt, each.answer, *each.choices) for each in problems]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()
