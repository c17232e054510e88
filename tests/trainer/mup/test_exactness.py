"""Parametrizations are exact: equivalent forms give the same losses, and at the base shape all are the standard one."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from foretrain.configs.data import DataConfig
from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.parametrization import BaseConfig, MupConfig
from foretrain.configs.schema import Config, ModelConfig, TrainConfig
from foretrain.trainer.model.spec import Role
from foretrain.trainer.mup.parametrize import blueprint
from foretrain.trainer.mup.table import COMPLETEP, MUP, Parametrization, Power
from foretrain.trainer.verification.curve import Curve
from foretrain.trainer.verification.reference import reference

NUM_STEPS = 20
# Ratios are powers of 4: their roots are powers of 2, and so initial weights in fp32 are scaled without rounding.
LLAMA = ModelConfig(
    num_layers=4,
    d_model=64,
    num_heads=8,
    num_kv_heads=4,
    d_ff=192,
    vocab_size=61,
    seq_len=12,
    qk_norm=True,
)
GPT2 = ModelConfig(
    num_layers=4,
    d_model=64,
    num_heads=4,
    vocab_size=61,
    seq_len=12,
    norm="layernorm",
    position="learned",
    activation="gelu",
    bias=True,
    init_std=0.1,
)
OPTIMIZERS = {
    # Without eps the update does not depend on the size of gradients, which a rescaled form changes.
    "adam": OptimizerConfig(lr=2**-6, eps=1e-30, weight_decay=0.0, clip_norm=0),
    "adam with independent decay": OptimizerConfig(lr=2**-6, eps=1e-30, weight_decay=0.5, clip_norm=0),
    "adam with a large epsilon": OptimizerConfig(lr=2**-6, eps=1e-3, weight_decay=0.1, clip_norm=0),
    "sgd": OptimizerConfig(kind="sgd", lr=2**-2, beta1=0.9, weight_decay=0.01, clip_norm=0),
}
FORMS: dict[str, dict[Role, Power]] = {
    "table 3": {"output": Power(fan_in=1)},
    "table 9": {"embedding": Power(fan_out=0.5), "output": Power(fan_in=0.5)},
    "multipliers on hidden matrices": {"hidden": Power(fan_in=0.5), "residual": Power(fan_in=0.5, depth=-0.5)},
}


def config(model: ModelConfig, optimizer: str, parametrization: str = "completep", base: int = 16) -> Config:
    mup = MupConfig(parametrization=parametrization, base=BaseConfig(d_model=base, num_layers=1))  # type: ignore[arg-type]
    train = TrainConfig(global_batch_size=4, seed=3)
    return Config(model=model, mup=mup, optimizer=OPTIMIZERS[optimizer], train=train, data=DataConfig())


def distance(a: Curve, b: Curve) -> float:
    return max(abs(x - y) for x, y in zip(a.losses, b.losses, strict=True))


def cases() -> Iterator[Any]:
    """Every model with every optimizer; a few of these pairs are in the quick suite."""
    quick = {("llama", "adam with a large epsilon"), ("gpt2", "adam with independent decay"), ("gpt2", "sgd")}
    for name, model in {"llama": LLAMA, "gpt2": GPT2}.items():
        for optimizer in OPTIMIZERS:
            marks = () if (name, optimizer) in quick else pytest.mark.long
            yield pytest.param(model, optimizer, id=f"{name}, {optimizer}", marks=marks)


@pytest.mark.parametrize(("model", "optimizer"), list(cases()))
def test_equivalent_forms_give_the_same_losses_over_20_steps_in_float64(model: ModelConfig, optimizer: str) -> None:
    asked = config(model, optimizer)
    ours = reference(asked, "float64", NUM_STEPS, COMPLETEP)
    assert ours.losses[-1] < ours.losses[0] - 0.1, "nothing is learnt, so nothing is compared"
    for name, shifts in FORMS.items():
        theirs = reference(asked, "float64", NUM_STEPS, COMPLETEP.rescaled(shifts))
        assert distance(ours, theirs) < 1e-12, name


@pytest.mark.parametrize("name", ["std", "multiplier", "update", "gradient"])
def test_a_form_with_one_wrong_entry_gives_other_losses(name: str) -> None:
    asked = config(LLAMA, "adam with a large epsilon")
    right = MUP.rescaled(FORMS["table 3"])
    rule = replace(right.rules["output"], **{name: Power(fan_in=0.5) * getattr(right.rules["output"], name)})
    wrong = replace(right, rules={**right.rules, "output": rule})
    assert distance(reference(asked, "float64", 6, MUP), reference(asked, "float64", 6, wrong)) > 1e-4


@pytest.mark.parametrize("parametrization", ["mup", "completep"])
@pytest.mark.parametrize("model", [LLAMA, GPT2, replace(GPT2, tie_embeddings=True)], ids=["llama", "gpt2", "tied"])
def test_at_its_base_shape_a_parametrization_is_the_standard_one_bitwise(
    model: ModelConfig, parametrization: str
) -> None:
    base = BaseConfig(d_model=model.d_model, num_layers=model.num_layers)
    asked = config(model, "adam with a large epsilon")
    at_base = replace(asked, mup=MupConfig(parametrization=parametrization, base=base))  # type: ignore[arg-type]
    standard = replace(asked, mup=MupConfig())
    assert blueprint(at_base) == blueprint(standard)
    assert reference(at_base, "float32", 5) == reference(standard, "float32", 5)


def test_the_standard_parametrization_is_the_same_whatever_the_base() -> None:
    plain = replace(config(LLAMA, "adam"), mup=MupConfig())
    with_base = replace(plain, mup=MupConfig(base=BaseConfig(d_model=16, num_layers=1)))
    assert blueprint(with_base) == blueprint(plain)


def test_tied_embeddings_refuse_a_form_in_which_embedding_and_head_differ() -> None:
    tied = config(replace(GPT2, tie_embeddings=True), "adam")
    with pytest.raises(ValueError, match="tie_embeddings"):
        blueprint(tied, COMPLETEP.rescaled(FORMS["table 3"]))


def test_tied_embeddings_have_the_same_losses_in_a_form_that_treats_embedding_and_head_alike() -> None:
    tied = config(replace(GPT2, tie_embeddings=True), "adam with independent decay")
    form: Parametrization = COMPLETEP.rescaled(FORMS["table 9"])
    assert distance(reference(tied, "float64", 20), reference(tied, "float64", 20, form)) < 1e-12
