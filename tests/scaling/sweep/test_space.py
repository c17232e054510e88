"""The values that a user may give with --over, and their meaning."""

import random
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain.scaling.sweep.space import parse_axis, parse_numbers


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        ("2^-3..2^1", ["2^-3", "2^-2", "2^-1", "2^0", "2^1"]),
        ("2**-2..2**-1:0.5", ["2^-2", "2^-1.5", "2^-1"]),
        ("10^-4..10^-2", ["10^-4", "10^-3", "10^-2"]),
        ("1e-4,3e-4, 1e-3", ["1e-4", "3e-4", "1e-3"]),
        ("0..0.2:0.05", ["0", "0.05", "0.1", "0.15", "0.2"]),
        ("cosine,linear", ["cosine", "linear"]),
        ("0.1", ["0.1"]),
        ("0..1", []),
    ],
)
def test_a_spec_means_these_values(spec: str, values: list[str]) -> None:
    assert list(parse_axis(f"optimizer.lr={spec}").values) == values


@given(st.integers(-30, 30), st.integers(1, 30), st.sampled_from([1, 2, 4, 5, 8]))
def test_a_range_has_both_ends_and_equal_steps(low: int, num_steps: int, parts: int) -> None:
    step = Decimal(1) / parts
    high = low + num_steps * step
    exponents = [Decimal(value.removeprefix("2^")) for value in parse_axis(f"k=2^{low}..2^{high}:{step}").values]
    assert (exponents[0], exponents[-1], len(exponents)) == (low, high, num_steps + 1)
    assert {b - a for a, b in pairwise(exponents)} == {step}
    assert [Decimal(value) for value in parse_axis(f"k={low}..{high}:{step}").values] == exponents


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("optimizer.lr", "is not KEY=SPEC"),
        ("=1,2", "is not KEY=SPEC"),
        ("optimizer.lr=", "is not KEY=SPEC"),
        ("optimizer.lr=1,,2", "one of the values is empty"),
        ("optimizer.lr=2^-3..2^-10", "2^-3 must be less than 2^-10"),
        ("optimizer.lr=2^-3..3^-2", "powers of one base"),
        ("optimizer.lr=2^-3..1", "powers of one base"),
        ("optimizer.lr=1^2..1^3", "must be positive, and not 1"),
        ("optimizer.lr=2^-3..2^0:0.7", "do not end at 0"),
        ("optimizer.lr=2^-3..2^0:0", "must be greater than 0"),
        ("optimizer.lr=0..0.2:-1", "must be greater than 0"),
        ("optimizer.lr=a..b", "'a' is not a number"),
        ("optimizer.lr=0..1..2", "is not a number"),
        ("optimizer.lr=0..inf", "'inf' is not a number"),
        ("optimizer.lr=0..1:1e-6", "1000001 values are too many"),
        ("optimizer.lr=2^0..2^2000:500", "is too large for a number"),
    ],
)
def test_a_bad_spec_is_refused_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(ValueError, match="--over") as error:
        parse_axis(text)
    assert says in str(error.value)
    assert f"'{text}'" in str(error.value)


@given(st.integers(0, 2**32))
def test_a_random_value_is_in_the_range(seed: int) -> None:
    rng = random.Random(seed)
    assert 2**-10 * 0.999 <= float(parse_axis("k=2^-10..2^-3").draw(rng, is_int=False)) <= 2**-3 * 1.001
    assert 0 <= float(parse_axis("k=0..0.2").draw(rng, is_int=False)) <= 0.2
    assert int(parse_axis("k=8..64").draw(rng, is_int=True)) in range(8, 65)
    assert parse_axis("k=0..1:0.5").draw(rng, is_int=False) in ("0", "0.5", "1")  # a step is a wish too


def test_powers_are_drawn_evenly_over_exponents() -> None:
    rng, axis = random.Random(0), parse_axis("k=2^-10..2^0")
    drawn = [float(axis.draw(rng, is_int=False)) for _ in range(2000)]
    assert 0.45 < sum(value < 2**-5 for value in drawn) / len(drawn) < 0.55


def test_numbers_are_read_or_refused_by_name() -> None:
    assert parse_numbers("--widths", "32, 64") == (32, 64)
    assert parse_numbers("--widths", "") == ()
    for text in ("32,", "a", "0", "-1", "1.5"):
        with pytest.raises(ValueError, match=f"--widths '{text}': give whole numbers of 1 or more"):
            parse_numbers("--widths", text)
    with pytest.raises(ValueError, match="names a number twice"):
        parse_numbers("--seeds", "0,0", least=0)
