"""Cases in which the `mup` package (microsoft/mup 1.0.0) is wrong or undefined: its behaviour, ours, and the effects.

The effects are measured on the package's own plain GPT, 8 or 16 times as wide as its base: in maximal update
parametrization, sizes of activations and their changes in a step do not depend on width.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.parametrization import BaseConfig, MupConfig
from foretrain.configs.schema import Config, ModelConfig, TrainConfig
from foretrain.trainer.mup.parametrize import blueprint
from foretrain.trainer.mup.table import MUP, Ratios
from tests.trainer.mup.package import (
    at_base,
    moved_by_package,
    moved_by_tables,
    of_package,
    of_tables,
    package_model,
    package_optimizer,
    plain,
    shaped,
)

BASE = ModelConfig(num_layers=1, d_model=16, num_heads=2, d_ff=48, vocab_size=61, seq_len=12, init_std=0.25)
WIDE = replace(BASE, d_model=256, num_heads=32, d_ff=768)
K = "blocks.0.attn.k.weight"


def config(model: ModelConfig, eps: float = 1e-8, **base: int) -> Config:
    asked = MupConfig(parametrization="mup", base=BaseConfig(**base))
    optimizer = OptimizerConfig(lr=2**-6, eps=eps, weight_decay=0.0)
    return Config(model=model, mup=asked, optimizer=optimizer, train=TrainConfig(global_batch_size=4, seed=3))


def test_a_tied_readout_of_the_package_has_its_bias_over_d_model_and_does_not_start_at_zero(mup: Any) -> None:
    embedding = torch.nn.Embedding(61, 16)
    readout = mup.set_base_shapes(mup.MuSharedReadout(embedding.weight), None)
    assert readout.bias.shape == (16,)
    with pytest.raises(RuntimeError, match="size"):
        readout(torch.zeros(2, 16))
    assert mup.MuSharedReadout(embedding.weight, readout_zero_init=True).weight.any()


def test_eps_is_the_same_at_every_width_in_the_package_and_a_large_one_slows_wide_models(mup: Any) -> None:
    asked = config(WIDE, eps=0.1, d_model=16)
    model = package_model(mup, asked)
    assert {group["eps"] for group in package_optimizer(mup, asked, model).param_groups} == {0.1}

    def stream(seen: Mapping[str, Tensor]) -> Tensor:
        return seen["blocks.0"]

    assert moved_by_package(mup, asked, 3, stream).change < 1 / 3
    assert moved_by_tables(mup, asked, 3, stream).change == pytest.approx(1, rel=0.25)


def test_the_package_leaves_attention_logits_to_its_user_and_they_learn_faster_in_wider_heads(mup: Any) -> None:
    one_head = replace(BASE, d_model=512, num_heads=1, d_ff=512, position="learned", init_std=0.125)
    asked = config(one_head, d_model=64, num_heads=1)

    def products(seen: Mapping[str, Tensor]) -> Tensor:
        return (seen["blocks.0.attn.q"] @ seen["blocks.0.attn.k"].transpose(-1, -2)).tril()

    by_root_of_width = 8**-0.5
    assert moved_by_package(mup, asked, 3, products).change * by_root_of_width > 1.8, "towards sqrt(8)"
    ours = moved_by_tables(mup, asked, 3, products).change * by_root_of_width
    assert ours * blueprint(asked).multipliers.attention == pytest.approx(1, rel=0.4)


# A ladder whose key-value heads do not grow, and a second shape in which they do not grow either.
FEW_KEYS = config(replace(WIDE, num_kv_heads=2), d_model=16, num_kv_heads=2)
SAME_KEYS = replace(BASE, d_model=32, num_heads=4, num_kv_heads=2, d_ff=96)


def test_keys_and_values_are_hidden_or_an_output_to_the_package_by_the_sizes_of_another_model(mup: Any) -> None:
    rule, ratios = MUP.rules["hidden"], Ratios(fan_in=16)
    with_widths = of_package(
        mup, FEW_KEYS
    )  # the second shape has twice as many key-value heads, so their number is a width
    assert (with_widths[K, "adamw lr"], with_widths[K, "sgd lr"]) == (rule.lr(0)(ratios), rule.lr(1)(ratios))
    assert with_widths[K, "std"] == pytest.approx(rule.std(ratios))
    with pytest.raises(AssertionError, match="infinite fan-in and finite fan-out"):
        shaped(mup, FEW_KEYS, delta=SAME_KEYS)
    without_widths = of_package(mup, FEW_KEYS, delta=SAME_KEYS, do_assert=False)
    assert (without_widths[K, "adamw lr"], without_widths[K, "sgd lr"]) == (1, 16)
    assert without_widths[K, "std"] == pytest.approx(1)


def test_ours_refuses_key_value_heads_that_do_not_grow() -> None:
    with pytest.raises(ValueError, match="keep num_heads / num_kv_heads"):
        of_tables(FEW_KEYS)


def test_keys_of_constant_size_come_from_the_hidden_rule_alone(mup: Any) -> None:
    def keys(**settings: Any) -> tuple[float, float]:
        found = moved_by_package(mup, FEW_KEYS, 1, lambda seen: seen["blocks.0.attn.k"], **settings)
        return found.size, found.change

    assert keys() == pytest.approx((1, 1), rel=0.5)
    size, change = keys(delta=SAME_KEYS, do_assert=False)
    assert size == pytest.approx(16**0.5, rel=0.1)
    assert change > 8, "towards 16"
    size, _ = keys(delta=SAME_KEYS, kv=mup.MuReadout)  # as the assertion advises
    assert size == pytest.approx(16**-0.5, rel=0.1)


def test_a_matrix_that_is_stored_as_in_times_out_has_the_ratio_of_its_outputs_in_the_package(mup: Any) -> None:
    """GPT-2's matrices are stored so in the transformers library. Our table derives a fan from the role."""

    def change(fan_in: int, lr: float) -> float:
        """Change of the outputs in one step of Adam, which moves every weight by lr."""
        weight = torch.zeros(fan_in, 8, requires_grad=True)
        x = torch.randn(fan_in, generator=torch.Generator().manual_seed(0))
        (x @ weight).sum().backward()
        torch.optim.Adam([weight], lr=lr).step()
        return (x @ weight).square().mean().sqrt().item()

    def stored(fan_in: int, fan_out: int) -> torch.nn.Module:
        return torch.nn.ParameterDict({"down": torch.zeros(fan_in, fan_out)})

    model = mup.set_base_shapes(stored(192, 64), stored(12, 16), delta=stored(24, 32))
    (theirs,) = (group["lr"] for group in mup.MuAdam(model.parameters(), lr=1.0).param_groups if group["params"])
    ours = MUP.rules["residual"].lr(0)(Ratios(fan_in=16, fan_out=4))
    assert (theirs, ours) == (1 / 4, 1 / 16)
    assert change(192, ours) / change(12, 1.0) == pytest.approx(1, rel=0.25)
    assert change(192, theirs) / change(12, 1.0) == pytest.approx(4, rel=0.25)


def test_the_package_compares_models_of_one_depth_alone_and_ours_has_a_factor_of_depth(mup: Any) -> None:
    asked = config(replace(WIDE, num_layers=4), d_model=16, num_layers=1)
    with pytest.raises(AssertionError, match="extra names"):
        mup.set_base_shapes(plain(mup, asked.model), plain(mup, at_base(asked).model))
    completep = replace(asked, mup=replace(asked.mup, parametrization="completep"))
    assert blueprint(completep).multipliers.residual == 1 / 4
