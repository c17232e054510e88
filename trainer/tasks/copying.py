"""The task `copy`: a sequence of words that the prompt has twice, and begins for a third time, is to be completed."""

import numpy as np

from foretrain.trainer.tasks.base import TASKS, Problem
from foretrain.trainer.tasks.words import WORDS

NUM_WORDS = 4


def copy(random: np.random.Generator) -> Problem:
    """Four different words in a random order: "red sun box dog", two complete lines, and the first word again."""
    first, *others = random.choice(WORDS, NUM_WORDS, replace=False).tolist()
    rest = "".join(f" {word}" for word in others) + "\n"
    return Problem(f"{first}{rest}{first}{rest}{first}", rest)


TASKS.register("copy", copy)
