"""The loss of a model that knows only how often each token occurs is that of the tokens on which it is measured."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from foretrain.data_pipeline.prepare.unigrams import cross_entropy_nats, entropy_nats

COUNTS = arrays(np.int64, 7, elements=st.integers(0, 10**12))


def test_it_is_the_mean_over_the_held_out_tokens() -> None:
    train, held_out = np.array([2, 0, 5]), np.array([1, 3, 0])
    expected = -(math.log(3 / 10) + 3 * math.log(1 / 10)) / 4  # every token of the vocabulary counts once more
    assert cross_entropy_nats(held_out, train) == pytest.approx(expected)


def test_without_held_out_tokens_there_is_none() -> None:
    assert cross_entropy_nats(np.zeros(3, dtype=np.int64), np.array([1, 2, 3])) is None


@given(COUNTS.filter(lambda counts: counts.any()), COUNTS)
def test_it_is_finite_and_never_below_the_entropy_of_the_tokens_themselves(
    held_out: np.ndarray, train: np.ndarray
) -> None:
    loss = cross_entropy_nats(held_out, train)
    assert loss is not None
    assert math.isfinite(loss)
    assert loss >= entropy_nats(held_out) - 1e-9


@given(COUNTS.filter(lambda counts: counts.sum() > 10**6))
def test_on_much_text_of_the_same_kind_it_is_the_entropy(counts: np.ndarray) -> None:
    assert cross_entropy_nats(counts, counts) == pytest.approx(entropy_nats(counts), abs=1e-3)
