"""The places in a text at which tasks ask for a word: where a line or a sentence ends. Pure.

The word occurs in the passage before too, so it can be known, as most targets of LAMBADA can (arXiv 1606.06031). It
follows a single space, where the tokens of nearly all tokenizers begin.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

PASSAGE_CHARS = 800
"""Characters of the passage before the word, at the most."""

_AFTER_A_SPACE = r"(?<=\S) ([^\W\d]\w+)"
WORD = re.compile(_AFTER_A_SPACE)
LAST_WORD = re.compile(_AFTER_A_SPACE + r"(?=[^\w\s]*(?:\r?\n|[.!?]\s))")
"""A word after which, but for punctuation, a line or a sentence ends: an identifier of code too."""


@dataclass(frozen=True)
class LastWord:
    """The last word of a line or a sentence, and the text before it."""

    passage: str
    """Without the space before the word."""
    word: str
    others: frozenset[str]
    """Other words that end a line or a sentence of the passage."""


def last_words(documents: Sequence[str], random: np.random.Generator) -> Iterator[LastWord]:
    """The last words that occur in the passage before them, in a random order in which the documents take turns."""
    order = random.permutation(len(documents)).tolist()
    places = [random.permutation([found.start() for found in LAST_WORD.finditer(documents[each])]) for each in order]
    for turn in zip_longest(*places):
        for each, start in zip(order, turn, strict=True):
            found = None if start is None else _at(documents[each], int(start))
            if found is not None:
                yield found


def _at(text: str, start: int) -> LastWord | None:
    """The word at a place of LAST_WORD; None if it does not occur in the passage.

    The passage begins with a line, or with a word where lines are long.
    """
    passage = text[max(0, start - PASSAGE_CHARS) : start]
    if start > PASSAGE_CHARS:
        beginning = passage[: PASSAGE_CHARS // 4]
        cut = beginning.find("\n")
        passage = passage[(beginning.find(" ") if cut < 0 else cut) + 1 :]
    found = LAST_WORD.match(text, start)
    assert found is not None
    if found[1] not in WORD.findall(passage):
        return None
    return LastWord(passage, found[1], frozenset(LAST_WORD.findall(passage)) - {found[1]})
