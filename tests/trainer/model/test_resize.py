"""A model at another size keeps its proportions, or the error lists possible sizes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain.configs.model import Shape
from foretrain.configs.schema import ModelConfig
from foretrain.trainer.model.resize import resized

MODEL = ModelConfig(num_layers=8, d_model=256, num_heads=16, num_kv_heads=4, d_ff=768, vocab_size=100)


@given(st.integers(1, 40), st.integers(1, 40))
def test_proportions_and_the_width_of_a_head_do_not_change(steps: int, num_layers: int) -> None:
    shape, old = Shape.of(resized(MODEL, 64 * steps, num_layers)), Shape.of(MODEL)
    assert (shape.d_model, shape.num_layers, shape.head_dim) == (64 * steps, num_layers, old.head_dim)
    for name in ("num_heads", "num_kv_heads", "d_ff"):
        assert getattr(shape, name) * old.d_model == getattr(old, name) * shape.d_model


@given(st.integers(1, 600))
def test_a_width_is_refused_if_and_only_if_a_size_is_no_whole_number(width: int) -> None:
    if width % 64 == 0:
        resized(MODEL, width)
        return
    with pytest.raises(ValueError, match="take a multiple of 64"):
        resized(MODEL, width)


def test_a_model_at_its_own_size_is_the_model_itself() -> None:
    assert resized(MODEL) == resized(MODEL, 256, 8) == MODEL


def test_sizes_that_are_given_are_taken_as_they_are() -> None:
    small = resized(MODEL, 96, num_heads=8, d_ff=100)
    assert (small.num_heads, small.num_kv_heads, small.d_ff, small.head_dim) == (8, 2, 100, None)
