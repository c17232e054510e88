"""How likely continuations are: the sum over their tokens, whatever is computed beside them."""

import random
from pathlib import Path

import pytest
import torch

from foretrain.trainer.text.inference import Model, load_model
from foretrain.trainer.text.likelihood import likelihoods
from tests.trainer.interop.cases import LLAMA, config_of
from tests.trainer.interop.made import random_model, write_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    config = config_of(LLAMA)
    folder = tmp_path_factory.mktemp("run")
    return load_model(folder, Path(write_checkpoint(folder, config, random_model(config).shards())))


def by_hand(model: Model, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """The log probability of each token alone, after those before it."""
    total, is_greedy, seq_len = 0.0, True, model.config.model.seq_len
    text = [*context, *continuation][-(seq_len + 1) :]
    for end in range(len(text) - len(continuation), len(text)):
        logits_V = model.logits(torch.tensor([text[:end]]))[0, -1]
        total += float(logits_V.log_softmax(dim=-1)[text[end]])
        is_greedy &= int(logits_V.argmax()) == text[end]
    return total, is_greedy


def test_texts_of_all_lengths_are_as_likely_together_as_token_by_token(model: Model) -> None:
    draw, seq_len, vocab_size = random.Random(0), model.config.model.seq_len, model.config.model.vocab_size or 0
    pairs: list[tuple[list[int], list[int]]] = []
    for _ in range(20):
        num_before, num_after = draw.randint(1, seq_len + 5), draw.randint(1, seq_len)
        drawn = [draw.randrange(vocab_size) for _ in range(num_before + num_after)]
        pairs.append((drawn[:num_before], drawn[num_before:]))
    # One that is the most likely text, token by token.
    greedy = [1, 2, 3]
    for _ in range(4):
        greedy.append(int(model.logits(torch.tensor([greedy]))[0, -1].argmax()))
    pairs.append((greedy[:3], greedy[3:]))
    for batch_size in (1, 6):
        counts: list[int] = []
        found = likelihoods(model, pairs, batch_size, counts.append)
        assert sum(counts) == len(pairs) and max(counts) == batch_size
        for each, (context, continuation) in zip(found, pairs, strict=True):
            total, is_greedy = by_hand(model, context, continuation)
            assert each.log_probability == pytest.approx(total, rel=1e-5)
            assert each.is_greedy == is_greedy
        assert found[-1].is_greedy and not all(each.is_greedy for each in found)


def test_a_continuation_that_does_not_fit_is_refused(model: Model) -> None:
    seq_len = model.config.model.seq_len
    with pytest.raises(ValueError, match=rf"{seq_len + 1} tokens is longer than model.seq_len = {seq_len}"):
        likelihoods(model, [([1], [2] * (seq_len + 1))], 1)
