"""A parametrization is the same under every layout: coordinates, optimizer factors and losses."""

from dataclasses import replace

import pytest

from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.parametrization import BaseConfig, MupConfig
from foretrain.configs.schema import Config, ModelConfig, TrainConfig
from foretrain.parallel.layout import Layout
from foretrain.trainer.mup.parametrize import blueprint
from tests.conftest import RunOnRanks
from tests.trainer.mup.workers import Seen, train

LAYOUTS = {"pp=2 vpp=2 zbv": Layout(pp=2, vpp=2, schedule="zbv")}
MORE_LAYOUTS = {
    "tp=2": Layout(tp=2),
    "pp=2": Layout(pp=2),
    "ZeRO-1": Layout(dp=2, zero_stage=1),
    "ZeRO-3": Layout(dp=2, zero_stage=3),
}
MODEL = ModelConfig(
    num_layers=4,
    d_model=128,
    num_heads=8,
    num_kv_heads=4,
    d_ff=192,
    vocab_size=40,
    seq_len=16,
    qk_norm=True,
    head_init_std=0.0,
)
CONFIG = Config(
    model=MODEL,
    mup=MupConfig(parametrization="completep", base=BaseConfig(d_model=32, num_layers=2, d_ff=96)),
    optimizer=OptimizerConfig(lr=2**-6, weight_decay=0.1),
    train=TrainConfig(global_batch_size=8, micro_batch_size=2, device="cpu"),
)
TIED = replace(
    CONFIG,
    model=replace(MODEL, tie_embeddings=True, head_init_std=None, position="learned", bias=True, norm="layernorm"),
)


CONFIGS = [CONFIG, TIED]
NUM_STEPS = 10


@pytest.fixture(scope="module")
def alone(ranks: RunOnRanks) -> list[Seen]:
    """The measurements of one process for each config."""
    return ranks(1, train, CONFIGS, Layout(), NUM_STEPS)[0]


@pytest.mark.parametrize(
    "layout",
    [
        *(pytest.param(layout, id=name) for name, layout in LAYOUTS.items()),
        *(pytest.param(layout, id=name, marks=pytest.mark.long) for name, layout in MORE_LAYOUTS.items()),
    ],
)
def test_coordinates_losses_and_factors_are_those_of_one_process(
    ranks: RunOnRanks, layout: Layout, alone: list[Seen]
) -> None:
    everyone = ranks(layout.world_size, train, CONFIGS, layout, NUM_STEPS)
    for expected, *seen in zip(alone, *everyone, strict=True):
        for mine in seen:
            check_coordinates(mine, expected)
            assert mine.losses == pytest.approx(expected.losses, rel=2e-5)
            assert mine.factors.items() <= expected.factors.items()
        assert set().union(*(mine.factors for mine in seen)) == expected.factors.keys()


def check_coordinates(mine: Seen, expected: Seen) -> None:
    assert mine.coordinates.size.keys() == expected.coordinates.size.keys()
    assert mine.coordinates.losses == pytest.approx(expected.coordinates.losses, rel=1e-5)
    for name, size in expected.coordinates.size.items():
        assert mine.coordinates.size[name] == pytest.approx(size, rel=1e-4), name
        assert mine.coordinates.change[name] == pytest.approx(expected.coordinates.change[name], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("number", range(len(CONFIGS)))
def test_every_parameter_is_optimized_with_the_factors_of_the_table(number: int, alone: list[Seen]) -> None:
    config = CONFIGS[number]
    optimizer = config.optimizer
    assert alone[number].factors == {
        param.name: (
            optimizer.lr * param.scale.lr,
            optimizer.eps * param.scale.eps,
            optimizer.weight_decay * param.scale.weight_decay if param.is_matrix else 0.0,
        )
        for param in blueprint(config).table
    }
