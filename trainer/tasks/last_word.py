"""The task `last_word`: the last word of a line or a sentence of the held-out text, after the text before it."""

from collections.abc import Iterator, Sequence

import numpy as np

from foretrain.trainer.tasks.base import TASKS, Problem, TextTask
from foretrain.trainer.tasks.last_words import last_words


def last_word(documents: Sequence[str], random: np.random.Generator) -> Iterator[Problem]:
    """A cloze problem for each place of `last_words`. As in LAMBADA, what follows the word is not asked for."""
    for each in last_words(documents, random):
        yield Problem(each.passage, f" {each.word}")


TASKS.register("last_word", TextTask(last_word))
