"""The standard error of a held-out loss: right for samples like those of a corpus, and what follows from it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain.trainer.standard_error import Estimate, combined, estimate, rounded_up, samples_needed

RNG_SEED = 0
LENGTH = 32


def of_means(mean_N: np.ndarray, windows: int = 1) -> Estimate:
    """The estimate from samples of LENGTH tokens with these mean losses; `windows` neighbours are of one document."""
    document_N = np.arange(len(mean_N)) // windows
    return estimate(LENGTH * mean_N, np.full(len(mean_N), LENGTH), document_N)


def ratio_of_errors(mean_RN: np.ndarray, true_mean: float, windows: int = 1) -> float:
    """The standard error that samples claim, over that of their means, as root mean squares over rows of samples."""
    found = [of_means(mean_N, windows) for mean_N in mean_RN]
    claimed = [each.standard_error or math.nan for each in found]
    true = [each.mean - true_mean for each in found]
    return float(np.sqrt(np.mean(np.square(claimed)) / np.mean(np.square(true))))


@pytest.mark.parametrize("num_samples", [16, 64, 400])
def test_of_independent_samples_it_is_the_error_that_repetitions_have(num_samples: int) -> None:
    mean_RN = np.random.default_rng(RNG_SEED).gamma(4.0, 0.6, (2000, num_samples))
    assert ratio_of_errors(mean_RN, 2.4) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(("num_documents", "windows"), [(20, 2), (100, 4), (50, 40)])
def test_of_many_windows_of_a_document_it_is_that_of_the_documents(num_documents: int, windows: int) -> None:
    """The mean of a document, from which its windows differ little, is most of their spread."""
    rng = np.random.default_rng(RNG_SEED)
    of_document = np.repeat(rng.normal(2.4, 0.3, (1000, num_documents)), windows, axis=1)
    mean_RN = of_document + rng.normal(0.0, 0.1, of_document.shape)
    assert ratio_of_errors(mean_RN, 2.4, windows) == pytest.approx(1.0, abs=0.07)
    assert ratio_of_errors(mean_RN, 2.4) < 0.8, "as if windows were independent, which shows that the case can fail"


def test_of_samples_of_unequal_lengths_it_is_that_of_the_ratio() -> None:
    rng, ratios, claimed = np.random.default_rng(RNG_SEED), [], []
    for _ in range(2000):
        num_tokens_N = rng.integers(1, 40, 100)
        found = estimate(num_tokens_N * rng.normal(2.0, 0.5, 100), num_tokens_N, np.arange(100))
        ratios.append(found.mean)
        claimed.append(found.standard_error or math.nan)
    assert np.std(ratios) == pytest.approx(np.mean(claimed), rel=0.1)


def test_of_equal_samples_it_is_0_and_of_one_document_unknown() -> None:
    assert of_means(np.full(10, 2.5)) == Estimate(2.5, 0.0, 10)
    assert of_means(np.array([2.5])) == Estimate(2.5, None, 1)
    assert of_means(np.array([2.0, 3.0]), windows=2) == Estimate(2.5, None, 2)
    nothing = estimate(np.zeros(3), np.zeros(3, dtype=np.int64), np.arange(3))
    assert math.isnan(nothing.mean) and nothing.standard_error is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_has_no_finite_error_and_no_number_of_samples(value: float) -> None:
    with np.errstate(invalid="ignore"):
        found = of_means(np.array([2.0, value, 2.5, 2.1]))
    assert found.standard_error is not None and not math.isfinite(found.standard_error)
    assert samples_needed([found], [1.0], 0.1) is None


def test_sources_count_by_weight_whatever_their_numbers_of_samples() -> None:
    parts = [Estimate(2.0, 0.3, 10), Estimate(3.0, 0.4, 1000), Estimate(9.0, 5.0, 2)]
    both = combined(parts, [3.0, 1.0, 0.0])
    assert (both.mean, both.num_samples) == (pytest.approx(2.25), 1012)
    assert both.standard_error == pytest.approx(math.hypot(0.75 * 0.3, 0.25 * 0.4))
    unknown = [parts[0], Estimate(3.0, None, 1)]
    assert combined(unknown, [1.0, 1.0]).standard_error is None
    assert combined(unknown, [1.0, 0.0]) == Estimate(2.0, 0.3, 11)
    assert samples_needed(unknown, [1.0, 1.0], 0.1) is None


def test_with_the_number_of_samples_that_it_needs_an_error_is_reached_and_with_half_of_it_not() -> None:
    rng, weights, wanted = np.random.default_rng(RNG_SEED), [0.75, 0.25], 0.02
    spreads = (0.5, 2.0)
    pilot = [of_means(rng.normal(2.0, spread, 400)) for spread in spreads]
    needed = samples_needed(pilot, weights, wanted)
    assert needed is not None
    for factor, is_reached in ((1.0, True), (0.5, False)):
        counts = [round(factor * weight * needed) for weight in weights]
        exact = [Estimate(2.0, spread / math.sqrt(count), count) for spread, count in zip(spreads, counts, strict=True)]
        error = combined(exact, weights).standard_error
        assert error is not None and (error < 1.1 * wanted) == is_reached


@given(st.integers(1, 10**9))
def test_numbers_of_samples_are_rounded_up_by_less_than_a_third_to_one_of_four_per_doubling(number: int) -> None:
    found = rounded_up(number)
    assert number <= found < 4 / 3 * number or found == number
    assert rounded_up(found) == found
    assert len({rounded_up(each) for each in range(64, 128)}) == 5, "64 and four more"
