"""The parameter table: published counts, FLOPs against a count of every product, and the order of its names."""

from collections import Counter
from dataclasses import replace
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain.configs.load import load
from foretrain.configs.model import Shape
from foretrain.configs.schema import ModelConfig
from foretrain.trainer.model.spec import SHARDED_AXES
from foretrain.trainer.model.table import flops_per_token, num_params, param_table

GQA = ModelConfig(num_layers=3, d_model=48, num_heads=6, num_kv_heads=2, d_ff=80, vocab_size=61, seq_len=24)


@st.composite
def models(draw: st.DrawFn) -> ModelConfig:
    num_kv_heads, head_dim = draw(st.integers(1, 3)), 2 * draw(st.integers(1, 4))
    num_heads = num_kv_heads * draw(st.integers(1, 3))
    return ModelConfig(
        num_layers=draw(st.integers(1, 4)),
        d_model=num_heads * draw(st.integers(1, 8)),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        d_ff=draw(st.none() | st.integers(1, 40)),
        vocab_size=draw(st.integers(1, 70)),
        seq_len=draw(st.integers(1, 32)),
        norm=draw(st.sampled_from(["rmsnorm", "layernorm"])),
        position=draw(st.sampled_from(["rope", "learned"])),
        activation=draw(st.sampled_from(["swiglu", "gelu", "gelu_tanh"])),
        bias=draw(st.booleans()),
        tie_embeddings=draw(st.booleans()),
        qk_norm=draw(st.booleans()),
    )


@pytest.mark.parametrize(
    ("preset", "published"),
    [
        ("gpt2_124m", 124_439_808),
        ("gpt2_355m", 354_823_168),
        ("gpt2_774m", 774_030_080),
        ("gpt2_1558m", 1_557_611_200),
        ("llama_7b", 6_738_415_616),
        ("llama_70b", 68_976_648_192),
    ],
)
def test_a_preset_has_exactly_the_published_number_of_parameters(preset: str, published: int) -> None:
    assert num_params(load(f"models/{preset}").model) == published


@pytest.mark.parametrize(
    ("preset", "exact", "published"),
    [("gpt3_6.7b", 6_658_404_352, 6_660_000_000), ("gpt3_175b", 174_604_259_328, 174_600_000_000)],
)
def test_gpt3_has_the_published_number_to_the_ten_millions_that_are_printed(
    preset: str, exact: int, published: int
) -> None:
    """arXiv 2005.14165, table D.1; table 2.1 calls the same models 6.7B and 175.0B."""
    model = load(f"models/{preset}").model
    assert model.vocab_size is not None
    blocks = model.num_layers * (12 * model.d_model**2 + 13 * model.d_model)
    assert exact == blocks + (model.vocab_size + model.seq_len) * model.d_model + 2 * model.d_model
    assert num_params(model) == exact
    assert round(exact, -7) == published


def test_embeddings_and_head_can_be_left_out_of_the_count() -> None:
    gpt2 = load("models/gpt2_124m").model
    assert num_params(gpt2, embeddings=False) == 124_439_808 - (50257 + 1024) * 768
    llama = load("models/llama_7b").model
    assert num_params(llama, embeddings=False) == 6_738_415_616 - 2 * 32000 * 4096


def products_of_forward(model: ModelConfig) -> list[tuple[int, int, int]]:
    """(m, n, k) of every matrix product in the forward pass of one sequence, written down layer by layer."""
    shape = Shape.of(model)
    length, d_model, head_dim = shape.seq_len, shape.d_model, shape.head_dim
    products = []
    for _ in range(shape.num_layers):
        products += [(length, heads * head_dim, d_model) for heads in (shape.num_heads, *2 * [shape.num_kv_heads])]
        products += shape.num_heads * [(length, length, head_dim)]  # scores
        products += shape.num_heads * [(length, head_dim, length)]  # averages of values
        products += [(length, d_model, shape.num_heads * head_dim)]
        products += [(length, shape.d_ff, d_model)] * (2 if model.activation == "swiglu" else 1)
        products += [(length, d_model, shape.d_ff)]
    return [*products, (length, shape.vocab_size, d_model)]


@given(models())
def test_flops_are_those_of_every_product_forward_and_twice_that_backward(model: ModelConfig) -> None:
    forward = sum(2 * prod(product) for product in products_of_forward(model))
    assert flops_per_token(model) * model.seq_len == 3 * forward


@given(models())
def test_causal_flops_lack_half_of_the_attention(model: ModelConfig) -> None:
    shape = Shape.of(model)
    scores_flops = 12 * shape.num_layers * shape.num_heads * shape.head_dim * shape.seq_len
    assert flops_per_token(model) - flops_per_token(model, causal=True) == scores_flops / 2


def test_flops_of_gpt3_are_those_of_the_known_formula() -> None:
    """6 N + 12 L A s (arXiv 2204.02311, appendix B), with N the matrices; the paper's own rounding is 6 N."""
    model = load("models/gpt3_175b").model
    matrices = 96 * 12 * 12288**2 + 50257 * 12288
    assert flops_per_token(model) == 6 * matrices + 12 * 96 * 12288 * 2048
    assert flops_per_token(model) == pytest.approx(6 * 175e9, rel=0.03)


def test_tying_the_head_saves_parameters_and_no_flops() -> None:
    tied = replace(GQA, tie_embeddings=True)
    assert num_params(GQA) - num_params(tied) == 61 * 48
    assert flops_per_token(GQA) == flops_per_token(tied)


@given(models())
def test_names_are_unique_and_a_tied_head_is_not_listed(model: ModelConfig) -> None:
    names = Counter(param.name for param in param_table(model))
    assert set(names.values()) == {1}
    assert ("head.weight" in names) == (not model.tie_embeddings)
    assert ("position.weight" in names) == (model.position == "learned")


@given(models())
def test_a_parameter_has_one_axis_for_each_dim_and_at_most_one_that_is_sharded(model: ModelConfig) -> None:
    shape = Shape.of(model)
    sizes = {
        "vocab": shape.vocab_size,
        "position": shape.seq_len,
        "embed": shape.d_model,
        "heads": shape.num_heads * shape.head_dim,
        "kv": shape.num_kv_heads * shape.head_dim,
        "ffn": shape.d_ff,
        "head_dim": shape.head_dim,
    }
    for param in param_table(model):
        assert param.shape == tuple(sizes[axis] for axis in param.axes)
        sharded = [dim for dim, axis in enumerate(param.axes) if axis in SHARDED_AXES]
        assert ([param.tp_dim] if param.tp_dim is not None else []) == sharded
        assert len(sharded) <= 1


@given(models())
def test_gains_start_at_1_biases_at_0_and_matrices_are_drawn(model: ModelConfig) -> None:
    for param in param_table(model):
        if param.is_matrix:
            back = param.name.endswith(("attn.out.weight", "mlp.down.weight"))
            assert param.std == pytest.approx(model.init_std / (2 * model.num_layers) ** (0.5 * back))
        else:
            assert (param.std, param.fill) == (0, 0 if param.name.endswith(".bias") else 1)


def test_a_model_without_a_vocabulary_is_refused_by_the_key() -> None:
    with pytest.raises(ValueError, match=r"model\.vocab_size is not set.*set it"):
        param_table(replace(GQA, vocab_size=None))
