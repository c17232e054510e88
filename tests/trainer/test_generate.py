"""Sampling and continuing a prompt: exact where it can be, by frequencies where it is drawn."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from foretrain.trainer.text.generate import generate, sample

VOCAB_SIZE = 7
EOT = 0


def successor_model(tokens_BL: Tensor) -> Tensor:
    """Always likes the next number best: 1, 2, ... VOCAB_SIZE - 1, then EOT."""
    return torch.nn.functional.one_hot((tokens_BL + 1) % VOCAB_SIZE, VOCAB_SIZE).float()


def draw(logits_V: Tensor, num_draws: int, temperature: float, top_k: int) -> Tensor:
    """Return how often each token was drawn (V,)."""
    generator = torch.Generator().manual_seed(0)
    draws = [sample(logits_V, temperature, top_k, generator) for _ in range(num_draws)]
    return torch.bincount(torch.tensor(draws), minlength=len(logits_V)).double()


# With a fixed seed these are not random. 27.9 is what chi-square with 9 degrees of freedom passes once in a thousand.
CHI_SQUARE_9 = 27.9


def chi_square(logits_V: Tensor, temperature: float, top_k: int) -> float:
    """Return the chi-square distance of 4,000 draws to softmax(logits / temperature) over all tokens."""
    counts_V = draw(logits_V, 4000, temperature, top_k)
    expected_V = 4000 * torch.softmax(logits_V.double() / temperature, dim=0)
    return float(((counts_V - expected_V) ** 2 / expected_V).sum())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_the_softmax_at_this_temperature_says(temperature: float) -> None:
    logits_V = torch.linspace(-1, 1, 10)
    assert chi_square(logits_V, temperature, top_k=0) < CHI_SQUARE_9
    assert chi_square(logits_V, temperature, top_k=10) < CHI_SQUARE_9


def test_the_frequency_check_notices_a_wrong_temperature() -> None:
    counts_V = draw(torch.linspace(-1, 1, 10), 4000, temperature=1.2, top_k=0)
    expected_V = 4000 * torch.softmax(torch.linspace(-1, 1, 10).double(), dim=0)
    assert float(((counts_V - expected_V) ** 2 / expected_V).sum()) > CHI_SQUARE_9


def test_top_k_draws_only_the_k_most_likely_tokens_in_their_proportion() -> None:
    counts_V = draw(torch.tensor([0.0, 3.0, 1.0, 3.0, 2.0]), 3000, temperature=1.0, top_k=2)
    assert counts_V[[0, 2, 4]].sum() == 0
    assert counts_V[1] / 3000 == pytest.approx(0.5, abs=0.03)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=20, unique=True), st.integers(0, 30), st.integers(0, 2**31))
def test_temperature_0_and_top_k_1_give_the_most_likely_token(logits: list[int], top_k: int, seed: int) -> None:
    logits_V = torch.tensor(logits, dtype=torch.bfloat16)
    most_likely = logits.index(max(logits))
    generator = torch.Generator().manual_seed(seed)
    assert sample(logits_V, 0.0, top_k, generator) == most_likely
    assert sample(logits_V, 1.0, 1, generator) == most_likely


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_of_a_diverged_model_are_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="diverged"):
        sample(torch.tensor([0.0, torch.nan]), temperature, 0, torch.Generator())


def test_a_prompt_is_continued_by_new_tokens_only() -> None:
    assert generate(successor_model, [5, 1], 3, seq_len=8, temperature=0, top_k=0, seed=0, eot_id=EOT) == [2, 3, 4]


def test_text_ends_before_the_end_of_text_token() -> None:
    assert generate(successor_model, [4], 50, seq_len=8, temperature=0, top_k=0, seed=0, eot_id=EOT) == [5, 6]
    unending = generate(successor_model, [4], 4, seq_len=8, temperature=0, top_k=0, seed=0, eot_id=None)
    assert unending == [5, 6, 0, 1]


def test_the_same_seed_writes_the_same_text_and_another_seed_another() -> None:
    texts = [
        generate(successor_model, [1], 40, seq_len=4, temperature=3.0, top_k=0, seed=seed, eot_id=None)
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_the_model_sees_the_latest_seq_len_tokens() -> None:
    windows = []

    def recording_model(tokens_BL: Tensor) -> Tensor:
        windows.append(tokens_BL[0].tolist())
        assert tokens_BL.shape[0] == 1
        assert tokens_BL.dtype == torch.int64
        return successor_model(tokens_BL)

    generate(recording_model, [1, 2], 4, seq_len=3, temperature=0, top_k=0, seed=0, eot_id=None)
    assert windows == [[1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]


def test_generating_builds_no_graph() -> None:
    weight_V = torch.zeros(VOCAB_SIZE, requires_grad=True)

    def model(tokens_BL: Tensor) -> Tensor:
        logits_BLV = successor_model(tokens_BL) + weight_V
        assert not logits_BLV.requires_grad
        return logits_BLV

    generate(model, [1], 2, seq_len=4, temperature=0, top_k=0, seed=0, eot_id=None)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        generate(successor_model, [], 4, seq_len=4, temperature=0, top_k=0, seed=0, eot_id=EOT)
