"""Sampling: exact where it can be, by frequencies where it is drawn."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from foretrain.trainer.text.sampling import Sampling, sample


def draw(logits_V: Tensor, num_draws: int, sampling: Sampling) -> Tensor:
    """Return how often each token was drawn (V,)."""
    generator = torch.Generator().manual_seed(0)
    draws = [sample(logits_V, sampling, generator) for _ in range(num_draws)]
    return torch.bincount(torch.tensor(draws), minlength=len(logits_V)).double()


# With a fixed seed these are not random. 27.9 is what chi-square with 9 degrees of freedom passes once in a thousand.
CHI_SQUARE_9 = 27.9


def chi_square(logits_V: Tensor, sampling: Sampling) -> float:
    """Return the chi-square distance of 4,000 draws to softmax(logits / temperature) over all tokens."""
    counts_V = draw(logits_V, 4000, sampling)
    expected_V = 4000 * torch.softmax(logits_V.double() / sampling.temperature, dim=0)
    return float(((counts_V - expected_V) ** 2 / expected_V).sum())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_the_softmax_at_this_temperature_says(temperature: float) -> None:
    logits_V = torch.linspace(-1, 1, 10)
    assert chi_square(logits_V, Sampling(temperature)) < CHI_SQUARE_9
    assert chi_square(logits_V, Sampling(temperature, top_k=10)) < CHI_SQUARE_9


def test_the_frequency_check_notices_a_wrong_temperature() -> None:
    counts_V = draw(torch.linspace(-1, 1, 10), 4000, Sampling(temperature=1.2))
    expected_V = 4000 * torch.softmax(torch.linspace(-1, 1, 10).double(), dim=0)
    assert float(((counts_V - expected_V) ** 2 / expected_V).sum()) > CHI_SQUARE_9


def test_top_k_draws_only_the_k_most_likely_tokens_in_their_proportion() -> None:
    counts_V = draw(torch.tensor([0.0, 3.0, 1.0, 3.0, 2.0]), 3000, Sampling(top_k=2))
    assert counts_V[[0, 2, 4]].sum() == 0
    assert counts_V[1] / 3000 == pytest.approx(0.5, abs=0.03)


PROBABILITIES = torch.tensor([0.05, 0.5, 0.15, 0.3])


@pytest.mark.parametrize(
    ("sampling", "left"),
    [
        (Sampling(top_p=0.49), [1]),
        (Sampling(top_p=0.51), [1, 3]),
        (Sampling(top_p=0.9), [1, 2, 3]),
        (Sampling(top_p=1e-9), [1]),
        (Sampling(min_p=0.09), [0, 1, 2, 3]),
        (Sampling(min_p=0.11), [1, 2, 3]),
        (Sampling(min_p=0.5), [1, 3]),
        (Sampling(min_p=1.0), [1]),
        (Sampling(top_k=3, top_p=0.7, min_p=0.1), [1, 3]),
        (Sampling(temperature=0.5, min_p=0.3), [1, 3]),  # squared by the temperature, 0.3 is 0.36 of the largest
    ],
)
def test_limits_leave_the_tokens_that_their_definitions_say_in_proportion(sampling: Sampling, left: list[int]) -> None:
    counts_V = draw(PROBABILITIES.log(), 2000, sampling)
    assert counts_V.nonzero().flatten().tolist() == left
    expected = PROBABILITIES[left] ** (1 / sampling.temperature)
    assert counts_V[left] / 2000 == pytest.approx(expected / expected.sum(), abs=0.04)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=20, unique=True), st.integers(0, 30), st.integers(0, 2**31))
def test_temperature_0_and_top_k_1_give_the_most_likely_token(logits: list[int], top_k: int, seed: int) -> None:
    logits_V = torch.tensor(logits, dtype=torch.bfloat16)
    most_likely = logits.index(max(logits))
    generator = torch.Generator().manual_seed(seed)
    assert sample(logits_V, Sampling(0.0, top_k), generator) == most_likely
    assert sample(logits_V, Sampling(top_k=1), generator) == most_likely


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_of_a_diverged_model_are_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="diverged"):
        sample(torch.tensor([0.0, torch.nan]), Sampling(temperature), torch.Generator())
