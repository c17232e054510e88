"""Where the `mup` package (microsoft/mup 1.0.0) is right, our parametrization is that of the package."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.parametrization import BaseConfig, MupConfig
from foretrain.configs.schema import Config, ModelConfig, TrainConfig
from foretrain.trainer.model.spec import Role
from foretrain.trainer.model.table import param_table
from foretrain.trainer.mup import parametrize
from foretrain.trainer.mup.parametrize import blueprint
from foretrain.trainer.mup.table import MUP, Power, Ratios
from foretrain.trainer.verification.reference import reference
from tests.trainer.mup.package import (
    HEAD,
    Entries,
    at_base,
    differing,
    losses,
    of_package,
    of_tables,
    package_model,
    package_optimizer,
    shaped,
)

# Widths are 4 times the base's, and feed-forward widths 16 times: a feed-forward matrix has two ratios. Their roots are
# powers of two, so that initial weights in fp32 are scaled without rounding.
LLAMA = ModelConfig(
    num_layers=2, d_model=64, num_heads=8, num_kv_heads=4, d_ff=192, vocab_size=61, seq_len=12, qk_norm=True
)
GPT2 = ModelConfig(
    num_layers=2,
    d_model=64,
    num_heads=4,
    d_ff=192,
    vocab_size=61,
    seq_len=12,
    norm="layernorm",
    position="learned",
    activation="gelu",
    bias=True,
    init_std=0.1,
)
MODELS = {  # with heads that grow in number, and in width
    "llama": (LLAMA, {"d_model": 16, "d_ff": 12}),
    "gpt2": (GPT2, {"d_model": 16, "d_ff": 12, "num_heads": 4}),
    "gpt2, tied": (replace(GPT2, tie_embeddings=True), {"d_model": 16, "d_ff": 12, "num_heads": 4}),
}
every_model = pytest.mark.parametrize(("model", "base"), MODELS.values(), ids=MODELS.keys())
OPTIMIZERS = {
    # Without eps, which the package does not scale.
    "adamw": OptimizerConfig(lr=2**-6, eps=1e-30, weight_decay=0.5, clip_norm=0),
    "sgd": OptimizerConfig(kind="sgd", lr=2**-2, beta1=0.9, weight_decay=0.01, clip_norm=0),
}


def config(model: ModelConfig, base: dict[str, int], optimizer: str = "adamw") -> Config:
    asked = MupConfig(parametrization="mup", base=BaseConfig(**base))
    train = TrainConfig(global_batch_size=4, seed=3)
    return Config(model=model, mup=asked, optimizer=OPTIMIZERS[optimizer], train=train)


@every_model
def test_initial_laws_multipliers_learning_rates_and_decay_are_those_of_the_package(
    mup: Any, model: ModelConfig, base: dict[str, int]
) -> None:
    asked = config(model, base)
    theirs = of_package(mup, asked)
    assert not differing(theirs, of_tables(asked))
    assert {value for (_, kind), value in theirs.items() if kind == "adamw lr"} == {1, 1 / 4, 1 / 16}
    assert theirs[HEAD, "multiplier"] == pytest.approx(1 / 4)


@every_model
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_plain_gpt_that_the_package_trains_has_our_losses(
    mup: Any, model: ModelConfig, base: dict[str, int], optimizer: str
) -> None:
    asked = config(model, base, optimizer)
    ours = reference(asked, "float64", 10).losses
    assert ours[-1] < ours[0] - 0.1, "nothing is learnt, so nothing is compared"
    # The package leaves the scale of attention logits to its user.
    theirs = package_model(mup, asked, attention=blueprint(asked).multipliers.attention).double()
    assert losses(theirs, package_optimizer(mup, asked, theirs), asked, 10) == pytest.approx(ours, abs=1e-12)


@pytest.mark.parametrize("entry", ["attention", "std", "multiplier", "update"])
def test_losses_of_a_table_with_one_wrong_entry_are_others(mup: Any, entry: str) -> None:
    asked = config(*MODELS["gpt2"])
    wrong = replace(MUP.rules["output"], **({} if entry == "attention" else {entry: Power(fan_in=-0.5)}))
    planted = replace(MUP, rules={**MUP.rules, "output": wrong}, attention=0 if entry == "attention" else MUP.attention)
    ours = reference(asked, "float64", 10, planted).losses
    theirs = package_model(mup, asked, attention=blueprint(asked).multipliers.attention).double()
    found = losses(theirs, package_optimizer(mup, asked, theirs), asked, 10)
    assert max(abs(a - b) for a, b in zip(found, ours, strict=True)) > 1e-3


@every_model
def test_default_weights_that_the_package_rescales_have_our_ratios_but_for_a_tied_matrix(
    mup: Any, model: ModelConfig, base: dict[str, int]
) -> None:
    asked, ours = config(model, base), of_tables(config(model, base))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        wide, narrow = shaped(mup, asked), shaped(mup, at_base(asked))
        for name in (param.name for param in param_table(model) if param.is_matrix):
            ratio = (wide.get_parameter(name).std() / narrow.get_parameter(name).std()).item()
            # Issue 55 of the package: it multiplies every readout by sqrt(m), to undo the 1 / sqrt(fan_in) with which
            # torch draws a linear layer. A tied one is drawn as an embedding, and so grows with width.
            wrong = 2 if model.tie_embeddings and name == "embed.weight" else 1
            assert ratio == pytest.approx(wrong * ours[name, "std"], rel=0.2), name


OFF: dict[Role, Power] = {
    "embedding": Power(fan_out=0.5),
    "hidden": Power(fan_in=0.5),
    "residual": Power(fan_in=0.5),
    "output": Power(fan_in=0.5),
    "gain": Power(fan_out=0.5),
    "bias": Power(fan_out=0.5),
}
QUANTITIES = {
    "std": {"std"},
    "multiplier": {"multiplier"},
    "update": {"adamw lr", "adamw decay", "sgd lr", "sgd decay"},
    "gradient": {"sgd lr", "sgd decay"},
}


@pytest.fixture(scope="module")
def of_gpt2(mup: Any) -> Entries:
    """What the package assigns to GPT2."""
    return of_package(mup, config(*MODELS["gpt2"]))


@pytest.mark.parametrize(
    ("role", "entry"),
    # The start of gains and biases is fixed, whatever the entry says.
    [(role, entry) for role in OFF for entry in QUANTITIES if role not in ("gain", "bias") or entry != "std"],
)
def test_a_wrong_entry_of_our_table_changes_its_role_and_nothing_else(of_gpt2: Entries, role: Role, entry: str) -> None:
    asked = config(*MODELS["gpt2"])
    rule = replace(MUP.rules[role], **{entry: getattr(MUP.rules[role], entry) * OFF[role]})
    planted = replace(MUP, rules={**MUP.rules, role: rule})
    names = [param.name for param in param_table(asked.model) if param.role == role]
    expected = {(name, quantity) for name in names for quantity in QUANTITIES[entry]}
    assert differing(of_gpt2, of_tables(asked, planted)) == expected


def test_a_feed_forward_matrix_with_the_ratio_of_d_model_is_detected(
    of_gpt2: Entries, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_d_model(fan_in: float = 1, fan_out: float = 1, depth: float = 1) -> Ratios:
        return Ratios(min(fan_in, 4), min(fan_out, 4), depth)

    monkeypatch.setattr(parametrize, "Ratios", of_d_model)
    found = {name.split(".", 2)[2] for name, _ in differing(of_gpt2, of_tables(config(*MODELS["gpt2"])))}
    assert found == {"mlp.up.weight", "mlp.up.bias", "mlp.down.weight"}
