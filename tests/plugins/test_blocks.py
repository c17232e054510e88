"""Layers of a plugin train under every kind of parallelism, have rows in muP's table, and are refused by name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from foretrain.configs.data import DataConfig
from foretrain.configs.model import ModelConfig
from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.parametrization import BaseConfig, MupConfig
from foretrain.configs.schema import Config, TrainConfig
from foretrain.parallel.layout import Layout, LayoutError
from foretrain.registry import import_plugins
from foretrain.trainer.model import block
from foretrain.trainer.model.blueprint import Blueprint
from foretrain.trainer.model.feed_forward import FEED_FORWARD
from foretrain.trainer.model.gpt import build_model
from foretrain.trainer.model.spec import Param, linear
from foretrain.trainer.model.table import check_sharding, param_table
from foretrain.trainer.mup.coordinates import measure
from foretrain.trainer.run.setup import prepare_run
from foretrain.trainer.verification.probe import probe
from foretrain.trainer.verification.reference import reference
from foretrain.verbs.app import app
from tests.conftest import RunOnRanks
from tests.parallel import workers
from tests.plugins.blocks import SquaredRelu

PLUGIN = "tests.plugins.blocks"
MODEL = workers.small_model(attention="gated", feed_forward="costly_relu", bias=True)
NUM_STEPS = 5


@pytest.fixture(scope="module", autouse=True)
def plugin() -> None:
    import_plugins([PLUGIN])


def config(recompute: Any = "none", **sections: Any) -> Config:
    defaults: dict[str, Any] = {
        "model": MODEL,
        "optimizer": OptimizerConfig(lr=1e-3, clip_norm=0.5),
        "train": TrainConfig(global_batch_size=8, micro_batch_size=2, recompute=recompute),
        "mup": MupConfig(
            parametrization="completep", base=BaseConfig(d_model=16, num_layers=2, num_heads=2, num_kv_heads=1)
        ),
    }
    return Config(plugins=[PLUGIN], **(defaults | sections))


LAYOUTS = [
    (Layout(), "none"),
    (Layout(tp=2, pp=2), "none"),
    pytest.param(Layout(tp=2, pp=2, sp=True), "full", marks=pytest.mark.long),
    pytest.param(Layout(pp=2, vpp=2, schedule="zbv"), "selective", marks=pytest.mark.long),
    pytest.param(Layout(dp=2, cp=2, zero_stage=2), "none", marks=pytest.mark.long),
    pytest.param(Layout(dp=2, zero_stage=3), "full", marks=pytest.mark.long),
]


@pytest.mark.parametrize(("layout", "recompute"), LAYOUTS, ids=str)
def test_they_have_the_curve_of_plain_torch_under_every_kind_of_parallelism(
    layout: Layout, recompute: str, ranks: RunOnRanks
) -> None:
    expected = reference(config(), "float64", NUM_STEPS)
    for curve in ranks(layout.world_size, probe, config(recompute), layout, NUM_STEPS):
        assert curve.weights == expected.weights
        assert curve.losses == pytest.approx(expected.losses, rel=1e-5)
        assert curve.grad_norms == pytest.approx(expected.grad_norms, rel=1e-5)


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_a_loss_of_a_layer_that_is_weighted_otherwise_is_seen(weight: float, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = reference(config(), "float64", 3)
    forward = block.with_loss
    monkeypatch.setattr(block, "with_loss", lambda y, loss, scale: forward(y, weight * loss, scale))
    found = reference(config(), "float64", 3)
    assert found.grad_norms != pytest.approx(expected.grad_norms, rel=1e-3)


def test_the_gradient_of_a_layers_loss_is_added_to_that_of_what_follows() -> None:
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)

    def gradient(total: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(total, x)[0]

    def layer() -> tuple[torch.Tensor, torch.Tensor]:
        return x.exp(), x.pow(3).sum()

    y, loss = layer()
    expected = gradient(y.square().sum() + 0.25 * loss)
    torch.testing.assert_close(gradient(block.with_loss(*layer(), torch.tensor(0.25)).square().sum()), expected)


def test_a_model_whose_layer_has_a_loss_is_not_trained_without_a_scale_for_it() -> None:
    stage = build_model(Blueprint.of(MODEL), seed=0)
    tokens = torch.zeros(1, MODEL.seq_len, dtype=torch.long)
    with pytest.raises(ValueError, match="call the model with loss_scale"):
        stage(tokens)
    with torch.no_grad():
        stage(tokens)


def test_the_command_shows_their_rows_of_the_table() -> None:
    settings = [f"plugins=[{PLUGIN}]", "model.attention=gated", "model.feed_forward=costly_relu"]
    result = CliRunner().invoke(
        app, ["mup", "runs/dry_run", *settings, "mup.parametrization=mup", "mup.base.d_model=64"]
    )
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    rows = {cells[0]: cells[1:] for cells in lines if cells and cells[0].startswith("blocks.")}
    names = ["attn_norm", "attn.query", "attn.key", "attn.value", "attn.gate", "attn.mix"]
    names += ["mlp_norm", "mlp.wide", "mlp.direction", "mlp.narrow"]
    assert list(rows) == [f"blocks.*.{name}.weight" for name in names]
    assert rows["blocks.*.attn.gate.weight"][0] == "hidden" and "0.5" not in rows["blocks.*.attn_norm.weight"]


def test_rows_that_share_a_tensor_must_share_their_factors() -> None:
    table = {param.name: param.tensor for param in param_table(MODEL)}
    assert table["blocks.1.attn.query.weight"] == table["blocks.1.attn.gate.weight"] == "blocks.1.attn.inputs.weight"
    assert table["blocks.1.mlp.wide.weight"] == ""


def test_a_coordinate_check_watches_the_output_of_every_matrix(ranks: RunOnRanks) -> None:
    ((found,),) = ranks(1, measure, [config()], Layout(), 1)
    block = {name.removeprefix("blocks.0.") for name in found.size if name.startswith("blocks.0.")}
    outputs = {"attn.query", "attn.key", "attn.value", "attn.gate", "attn.mix", "mlp.wide", "mlp.narrow"}
    gains = {"attn_norm.weight", "mlp_norm.weight", "mlp.direction.weight", "mlp.wide.bias", "mlp.narrow.bias"}
    assert block == outputs | gains


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ({"attention": "gatde"}, "model.attention: there is no attention named 'gatde': did you mean gated?"),
        ({"feed_forward": "moe"}, "model.feed_forward: there is no feed-forward layer named 'moe'.*`plugins`"),
    ],
)
def test_an_unknown_layer_is_refused_before_a_process_starts(
    layer: dict[str, str], words: str, tmp_path: Path, corpus: Path
) -> None:
    model = replace(MODEL, vocab_size=None, **layer)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=words):
        prepare_run(config(run_dir=str(tmp_path), model=model, data=DataConfig(str(corpus))))


class ThreeUnits(SquaredRelu):
    """Its width has nothing to do with model.d_ff."""

    def params(self, model: ModelConfig) -> list[Param]:
        return linear("wide", ("ffn", "embed"), (3, model.d_model), "hidden", model.init_std)


def test_a_layer_that_tensor_parallelism_cannot_split_is_refused_with_its_parameter() -> None:
    FEED_FORWARD.register("three_units", ThreeUnits())
    model = replace(MODEL, feed_forward="three_units")
    check_sharding(MODEL, Layout(tp=2))
    with pytest.raises(LayoutError, match=r"parallel.tp = 2 .* size 3 of blocks.0.mlp.wide.weight along 'ffn': use"):
        check_sharding(model, Layout(tp=2))
