"""Distances between curves, and what the curves of a verification are made of."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foretrain.parallel.loss import IGNORE
from foretrain.trainer.verification.curve import relative_difference
from foretrain.trainer.verification.probe import make_batch

NUMBERS = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=8)


@given(NUMBERS)
def test_a_curve_is_at_no_distance_from_itself(values: list[float]) -> None:
    assert relative_difference(values, values) == 0.0


@given(NUMBERS, st.data(), st.floats(1e-4, 1e4))
def test_one_step_that_differs_gives_the_distance(values: list[float], data: st.DataObject, error: float) -> None:
    step = data.draw(st.integers(0, len(values) - 1))
    other = [value * (1 + error) if index == step else value for index, value in enumerate(values)]
    assert relative_difference(other, values) == pytest.approx(error, rel=1e-6)


@given(NUMBERS, st.data(), st.sampled_from([math.nan, math.inf, -math.inf]), st.booleans())
def test_what_is_no_number_is_infinitely_far(values: list[float], data: st.DataObject, bad: float, first: bool) -> None:
    step = data.draw(st.integers(0, len(values) - 1))
    broken = [bad if index == step else value for index, value in enumerate(values)]
    assert relative_difference(*((broken, values) if first else (values, broken))) == math.inf


@given(st.integers(0, 50), st.integers(2, 8).map(lambda half: 2 * half), st.integers(8, 40))
def test_samples_carry_from_all_targets_to_none(step: int, num_samples: int, seq_len: int) -> None:
    tokens, targets = make_batch(step, 61, num_samples, seq_len)
    counts = (targets != IGNORE).sum(1)
    assert counts.min() == 0 and counts.max() == seq_len
    assert torch.equal(targets[targets != IGNORE], ((tokens * 7 + 3) % 61)[targets != IGNORE])
    halves = counts.view(2, -1).sum(1)
    assert num_samples < 8 or step % num_samples or halves[0] != halves[1], "two ranks carry equally many"
