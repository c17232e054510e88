"""The task `addition`: the sum of two numbers below 100, after three such sums as examples."""

import numpy as np

from foretrain.trainer.tasks.base import TASKS, Problem

NUM_EXAMPLES = 3
LIMIT = 100


def addition(random: np.random.Generator) -> Problem:
    """The prompt "3+25=28", two more such lines, and "12+34="; the answer 46."""
    pairs = random.integers(LIMIT, size=(NUM_EXAMPLES + 1, 2)).tolist()
    *examples, (one, other) = pairs
    lines = "".join(f"{a}+{b}={a + b}\n" for a, b in examples)
    return Problem(f"{lines}{one}+{other}=", f"{one + other}\n")


TASKS.register("addition", addition)
