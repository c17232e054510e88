"""The task `recall`: the number that the prompt has given to a word."""

import numpy as np

from foretrain.trainer.tasks.base import TASKS, Problem
from foretrain.trainer.tasks.words import WORDS

NUM_PAIRS = 4


def recall(random: np.random.Generator) -> Problem:
    """Four lines such as "sun=71", all different, and one of the words again; the answer is its number."""
    words = random.choice(WORDS, NUM_PAIRS, replace=False).tolist()
    numbers = (10 + random.choice(90, NUM_PAIRS, replace=False)).tolist()
    asked = int(random.integers(NUM_PAIRS))
    lines = "".join(f"{word}={number}\n" for word, number in zip(words, numbers, strict=True))
    return Problem(f"{lines}{words[asked]}=", f"{numbers[asked]}\n")


TASKS.register("recall", recall)
