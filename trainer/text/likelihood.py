"""How likely a model holds given continuations of given texts to be: one forward pass for each batch of them.

Shape letters: B texts of a batch, L positions of a text, C tokens of a continuation, V tokens of the vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from foretrain.trainer.text.inference import Model

Ids = Sequence[int]


class Likelihood(NamedTuple):
    """How likely a continuation is."""

    log_probability: float
    """Sum over the tokens of the continuation, nats."""
    is_greedy: bool
    """Whether each of its tokens is the single most likely one after those before it."""


@torch.no_grad()
def likelihoods(
    model: Model,
    pairs: Sequence[tuple[Ids, Ids]],
    batch_size: int,
    on_batch: Callable[[int], None] = lambda count: None,
) -> list[Likelihood]:
    """The likelihood of the second part of each pair after the first one, in the order of the pairs.

    Both parts are token ids, and neither is empty. What does not fit into the model's `seq_len` is left out at the
    beginning of the first part. `on_batch(count)` is called after each batch with the number of its pairs. Raises
    ValueError if a second part alone is longer than `seq_len`.
    """
    seq_len = model.config.model.seq_len
    for _, continuation in pairs:
        if len(continuation) > seq_len:
            raise ValueError(
                f"a continuation of {len(continuation):,} tokens is longer than model.seq_len = {seq_len}: divide it"
            )
    texts = [[*context, *continuation][-(seq_len + 1) :] for context, continuation in pairs]
    longest_first = sorted(range(len(pairs)), key=lambda number: -len(texts[number]))
    found: dict[int, Likelihood] = {}
    for start in range(0, len(pairs), batch_size):
        numbers = longest_first[start : start + batch_size]
        tokens_BL = torch.zeros(len(numbers), len(texts[numbers[0]]) - 1, dtype=torch.int64)
        for row, number in enumerate(numbers):  # what follows a text does not change what the model says of it
            tokens_BL[row, : len(texts[number]) - 1] = torch.tensor(texts[number][:-1])
        logits_BLV = model.logits(tokens_BL)
        for row, number in enumerate(numbers):
            target_C = torch.tensor(pairs[number][1])
            last = len(texts[number]) - 1
            log_CV = logits_BLV[row, last - len(target_C) : last].log_softmax(dim=-1)
            chosen = log_CV.gather(-1, target_C[:, None])[:, 0]
            is_greedy = torch.equal(log_CV.argmax(dim=-1), target_C)
            found[number] = Likelihood(float(chosen.sum()), is_greedy)
        on_batch(len(numbers))
    return [found[number] for number in range(len(pairs))]
