"""The task `which_word`: which of four words of the passage ends this line or sentence of the held-out text.

The right word occurs in the passage, and each of the others ends a line or a sentence of it. How often they do in the
complete text is of no help: the right word is the most frequent of the four in a quarter of the problems, the second in
another, and so on, and the others are those that are nearest to it in frequency. So a model that knows only how often
words occur, or how long they are, is right in about a quarter of the problems. Choices from the passage are an idea of
the Children's Book Test (arXiv 1511.02301).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from foretrain.trainer.tasks.base import TASKS, Problem, TextTask
from foretrain.trainer.tasks.last_words import LAST_WORD, LastWord, last_words

NUM_CHOICES = 4


def which_word(documents: Sequence[str], random: np.random.Generator) -> Iterator[Problem]:
    """A problem with four choices for each place of `last_words` whose passage has such words."""
    counts = Counter(word for text in documents for word in LAST_WORD.findall(text))
    rank = 0
    for each in last_words(documents, random):
        choices = _choices(each, counts, rank)
        if len(choices) == NUM_CHOICES:
            rank = (rank + 1) % NUM_CHOICES
            mixed = random.permutation(NUM_CHOICES).tolist()
            yield Problem(each.passage, f" {each.word}", tuple(f" {choices[number]}" for number in mixed))


def _choices(place: LastWord, counts: Mapping[str, int], rank: int) -> list[str]:
    """The right word, `rank` words that are more frequent, and others that are less; fewer than four if there are none.

    Words that are as frequent are in the order of the alphabet. No word is the beginning of another one, since the
    beginning of a word is never less likely than the complete word.
    """
    frequent = sorted({place.word, *place.others}, key=lambda word: (counts[word], word))
    at = frequent.index(place.word)
    found = [place.word]
    for words, wanted in ((frequent[at + 1 :], 1 + rank), (frequent[:at][::-1], NUM_CHOICES)):
        for word in words:
            if len(found) < wanted and not any(word.startswith(one) or one.startswith(word) for one in found):
                found.append(word)
        if len(found) < wanted:
            return []
    return found


TASKS.register("which_word", TextTask(which_word))
