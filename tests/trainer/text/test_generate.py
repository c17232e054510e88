"""Prompts are continued token by token, each as if it were alone."""

import pytest
import torch
from torch import Tensor

from foretrain.trainer.text.decoding import RecomputingDecoder
from foretrain.trainer.text.generate import Generation
from foretrain.trainer.text.sampling import Sampling

VOCAB_SIZE = 7
EOT = 0
GREEDY = Sampling(temperature=0)


def successor_model(tokens_BL: Tensor) -> Tensor:
    """Always likes the next number best: 1, 2, ... VOCAB_SIZE - 1, then EOT."""
    return torch.nn.functional.one_hot((tokens_BL + 1) % VOCAB_SIZE, VOCAB_SIZE).float()


def generation(
    *prompts: list[int], num_tokens: int = 4, sampling: Sampling = GREEDY, seed: int = 0, eot_id: int | None = EOT
) -> Generation:
    decoder = RecomputingDecoder(successor_model, seq_len=8)
    return Generation(decoder, prompts, num_tokens, sampling, [seed + each for each in range(len(prompts))], eot_id)


def texts(of: Generation, count: int) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in range(count)]
    for number, token in of:
        found[number].append(token)
    return found


def test_prompts_are_continued_by_new_tokens_only_until_each_ends() -> None:
    prompts = [5, 1], [4], [6], [1, 2, 3]
    assert texts(generation(*prompts, num_tokens=3), 4) == [[2, 3, 4], [5, 6], [], [4, 5, 6]]
    assert texts(generation([4], num_tokens=4, eot_id=None), 1) == [[5, 6, 0, 1]]
    assert texts(generation(), 0) == []


def test_the_same_seed_writes_the_same_text_and_another_seed_another() -> None:
    hot = Sampling(temperature=3.0)
    once, again, other = (
        texts(generation([1], num_tokens=40, sampling=hot, seed=seed, eot_id=None), 1) for seed in (1, 1, 2)
    )
    assert once == again != other


def test_the_text_of_a_prompt_does_not_depend_on_the_others() -> None:
    hot, prompts = Sampling(temperature=2.0), [[1], [2, 3], [3], [4, 5, 6]]
    together = texts(generation(*prompts, num_tokens=30, sampling=hot), 4)
    alone = [texts(generation(each, num_tokens=30, sampling=hot, seed=n), 1)[0] for n, each in enumerate(prompts)]
    assert together == alone
    assert len({len(text) for text in together}) > 1, "they end at different times"


def test_a_text_that_is_stopped_has_no_more_tokens() -> None:
    running = generation([1], [2], num_tokens=4, eot_id=None)
    found = []
    for number, token in running:
        found.append((number, token))
        if (number, token) == (0, 3):
            running.stop(0)
    assert found == [(0, 2), (1, 3), (0, 3), (1, 4), (1, 5), (1, 6)]


def test_generating_builds_no_graph() -> None:
    weight_V = torch.zeros(VOCAB_SIZE, requires_grad=True)

    def model(tokens_BL: Tensor) -> Tensor:
        logits_BLV = successor_model(tokens_BL) + weight_V
        assert not logits_BLV.requires_grad
        return logits_BLV

    assert texts(Generation(RecomputingDecoder(model, 4), [[1]], 2, GREEDY, [0], None), 1) == [[2, 3]]


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        generation([1], [])
