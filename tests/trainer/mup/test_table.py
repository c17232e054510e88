"""The rules themselves: what each role gets, from which shapes, and what a base model may be."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.parametrization import BaseConfig, MupConfig
from foretrain.configs.schema import Config, ModelConfig
from foretrain.trainer.model.spec import Param
from foretrain.trainer.mup.parametrize import base_model, blueprint, scaled_table
from foretrain.trainer.mup.table import ONE, PARAMETRIZATIONS, Power, Ratios, Rule, over_depth

SWIGLU = ModelConfig(
    num_layers=8, d_model=256, num_heads=16, num_kv_heads=4, d_ff=768, vocab_size=100, seq_len=8, bias=True
)


def config(model: ModelConfig, parametrization: str, kind: str = "adamw", **base: int) -> Config:
    mup = MupConfig(parametrization=parametrization, base=BaseConfig(**base))  # type: ignore[arg-type]
    return Config(model=model, mup=mup, optimizer=OptimizerConfig(kind=kind))


def params(config: Config) -> dict[str, Param]:
    return {param.name: param for param in blueprint(config).table}


def test_the_ratio_of_each_matrix_is_its_own_where_the_feed_forward_width_scales_otherwise() -> None:
    found = params(config(SWIGLU, "mup", d_model=64, num_layers=8, d_ff=96))  # widths x4, feed-forward x8
    standard = params(config(SWIGLU, "standard"))
    assert found["blocks.3.attn.q.weight"].scale.lr == 1 / 4
    assert found["blocks.3.attn.v.weight"].scale.lr == 1 / 4
    assert found["blocks.3.mlp.up.weight"].scale.lr == 1 / 4
    assert found["blocks.3.mlp.gate.weight"].scale == found["blocks.3.mlp.up.weight"].scale
    assert found["blocks.3.mlp.down.weight"].scale.lr == 1 / 8
    assert found["blocks.3.mlp.down.weight"].std == pytest.approx(standard["blocks.3.mlp.down.weight"].std / 8**0.5)
    assert found["blocks.3.mlp.up.weight"].scale.eps == 1 / 8, "a gradient's entries shrink with the outputs' number"
    assert found["blocks.3.mlp.down.weight"].scale.eps == 1 / 4


def test_embedding_head_gains_and_biases_keep_their_learning_rate_and_initial_law_over_width() -> None:
    found, standard = (params(config(SWIGLU, name, d_model=64)) for name in ("mup", "standard"))
    for name in (
        "embed.weight",
        "head.weight",
        "final_norm.weight",
        "blocks.0.attn_norm.weight",
        "blocks.0.mlp.up.bias",
    ):
        assert found[name].scale.lr == found[name].scale.weight_decay == 1
        assert found[name].std == standard[name].std
        assert found[name].scale.eps == 1 / 4
    multipliers = blueprint(config(SWIGLU, "mup", d_model=64)).multipliers
    assert multipliers.head == 1 / 4
    assert {value for name, value in vars(multipliers).items() if name != "head"} == {1.0}


def test_attention_logits_are_divided_by_head_dim_where_heads_grow() -> None:
    multipliers = blueprint(config(SWIGLU, "mup", d_model=64, num_heads=16)).multipliers
    assert multipliers.attention == (1 / 4) ** 0.5  # beside 1 / sqrt(head_dim), which is the other half


def test_completep_scales_blocks_over_depth_and_nothing_outside_them() -> None:
    wide, deep = (params(config(SWIGLU, name, d_model=64, num_layers=2)) for name in ("mup", "completep"))
    plan = blueprint(config(SWIGLU, "completep", d_model=64, num_layers=2))
    assert plan.multipliers.residual == 1 / 4
    for name in wide:
        a, b = wide[name], deep[name]
        assert a.scale.lr == b.scale.lr
        assert b.scale.eps == a.scale.eps / (4 if name.startswith("blocks.") else 1)
        grows = 2.0 if name.endswith(("attn.out.weight", "mlp.down.weight")) else 1.0
        assert b.std == a.std * grows, "GPT-2's 1 / sqrt(2 L) would count depth twice"


def test_depth_mup_divides_learning_rates_by_the_root_of_depth() -> None:
    asked = config(SWIGLU, "completep", d_model=256, num_layers=2)
    found = {row.param.name: row.param for row in scaled_table(asked, over_depth(0.5))}
    assert found["blocks.0.attn.q.weight"].scale.lr == found["blocks.0.attn_norm.weight"].scale.lr == 1 / 2
    assert found["embed.weight"].scale.lr == 1


@given(st.sampled_from(["mup", "completep"]), st.sampled_from(["adamw", "sgd"]), st.integers(1, 8), st.integers(1, 8))
def test_what_a_step_takes_off_a_weight_is_that_of_the_base(
    parametrization: str, kind: str, wider: int, deeper: int
) -> None:
    model = replace(SWIGLU, d_model=64 * wider, num_heads=4 * wider, num_kv_heads=wider, d_ff=192 * wider)
    found = params(config(replace(model, num_layers=deeper), parametrization, kind, d_model=64, num_layers=1))
    assert all(abs(param.scale.lr * param.scale.weight_decay - 1) < 1e-12 for param in found.values())


def test_sgd_scales_learning_rates_by_outputs_over_inputs() -> None:
    found = params(config(SWIGLU, "mup", "sgd", d_model=64, d_ff=96))
    rates = {name: found[name].scale.lr for name in ("embed.weight", "head.weight", "final_norm.weight")}
    assert rates == {"embed.weight": 4, "head.weight": 4, "final_norm.weight": 4}
    assert found["blocks.0.attn.q.weight"].scale.lr == 1
    assert found["blocks.0.mlp.up.weight"].scale.lr == 8 / 4
    assert found["blocks.0.mlp.down.weight"].scale.lr == 4 / 8


POWERS = st.builds(Power, *[st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0])] * 3)
RATIOS = st.builds(Ratios, *[st.floats(0.1, 100)] * 3)


@given(POWERS, POWERS, RATIOS, st.floats(-2, 2))
def test_powers_multiply_and_rise_as_numbers_do(a: Power, b: Power, ratios: Ratios, exponent: float) -> None:
    assert (a * b)(ratios) == pytest.approx(a(ratios) * b(ratios))
    assert (a**exponent)(ratios) == pytest.approx(a(ratios) ** exponent)
    assert ONE(ratios) == 1


@given(st.builds(Rule, POWERS, POWERS, POWERS, POWERS), POWERS, RATIOS)
def test_a_rescaled_rule_keeps_what_the_weight_does_and_how_it_moves(rule: Rule, t: Power, ratios: Ratios) -> None:
    assume(t != ONE)
    other = rule.rescaled(t)

    def at(power: Power) -> float:
        return power(ratios)

    assert at(other.multiplier * other.std) == pytest.approx(at(rule.multiplier * rule.std))
    assert at(other.multiplier * other.lr(0)) == pytest.approx(at(rule.multiplier * rule.lr(0)))
    # SGD moves by lr * gradient, and the gradient grows with the multiplier.
    assert at(other.multiplier**2 * other.lr(1)) == pytest.approx(at(rule.multiplier**2 * rule.lr(1)))
    assert other.rescaled(t**-1).std(ratios) == pytest.approx(rule.std(ratios))


def test_every_parametrization_has_a_rule_for_every_role() -> None:
    roles = {param.role for param in params(config(SWIGLU, "standard")).values()}
    assert all(roles <= table.rules.keys() for table in PARAMETRIZATIONS.values())


def test_a_base_has_the_models_proportions_except_for_the_sizes_that_are_set() -> None:
    base = base_model(SWIGLU, BaseConfig(d_model=64))
    assert (base.num_heads, base.num_kv_heads, base.d_ff, base.num_layers) == (4, 1, 192, 8)
    base = base_model(SWIGLU, BaseConfig(d_model=64, num_heads=16, d_ff=100, num_layers=2))
    assert (base.num_heads, base.num_kv_heads, base.d_ff, base.num_layers) == (16, 4, 100, 2)


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ({"d_model": 40}, "take a multiple of 64"),
        ({"d_model": 64, "num_heads": 4, "num_kv_heads": 4}, "num_heads / num_kv_heads = 16 / 4"),
        ({"d_model": 64, "num_heads": 4, "num_kv_heads": 3}, "not a multiple of num_kv_heads = 3"),
    ],
)
def test_an_impossible_base_is_refused_with_what_to_change(base: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        blueprint(config(SWIGLU, "mup", "adamw", **base))


@pytest.mark.parametrize("parametrization", ["mup", "completep"])
def test_a_parametrization_asks_for_its_base(parametrization: str) -> None:
    with pytest.raises(ValueError, match=r"mup\.base\.d_model"):
        MupConfig(parametrization=parametrization)  # type: ignore[arg-type]
