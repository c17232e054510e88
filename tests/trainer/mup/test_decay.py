"""Weight decay takes the same share of every matrix at every width; runs with decay show it."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.parametrization import BaseConfig, MupConfig
from foretrain.configs.schema import Config, ModelConfig, TrainConfig
from foretrain.parallel.layout import Layout
from foretrain.scaling.coord_check.judge import fit
from foretrain.trainer.model.resize import resized
from foretrain.trainer.mup.coordinates import Coordinates, measure
from tests.conftest import RunOnRanks
from tests.trainer.mup.workers import measure_with_decay_unscaled

WIDTHS = (32, 64, 128, 256)
NUM_STEPS = 24
MODEL = ModelConfig(num_layers=2, d_model=32, num_heads=2, vocab_size=16, seq_len=32, init_std=0.177)
CONFIG = Config(
    model=MODEL,
    mup=MupConfig(parametrization="mup", base=BaseConfig(d_model=32)),
    # In 24 steps decay alone shrinks a weight to exp(-1.5) of its initial value.
    optimizer=OptimizerConfig(lr=2**-10, weight_decay=64.0, clip_norm=0.0),
    train=TrainConfig(global_batch_size=16, micro_batch_size=16, device="cpu"),
)


def slopes(ranks: RunOnRanks, target: Callable[..., list[Coordinates]]) -> dict[str, float]:
    """The exponent over width of the size of each module's output after NUM_STEPS."""
    configs = [replace(CONFIG, model=resized(MODEL, width)) for width in WIDTHS]
    (found,) = ranks(1, target, configs, Layout(), NUM_STEPS)
    sizes = {name: [each.size[name][NUM_STEPS] for each in found] for name in found[0].size}
    return {name: slope for name, values in sizes.items() if (slope := fit(WIDTHS, values)) is not None}


@pytest.mark.long
def test_activations_of_decayed_matrices_keep_their_size_over_width(ranks: RunOnRanks) -> None:
    found = slopes(ranks, measure)
    hidden = {name: slope for name, slope in found.items() if name.count(".") == 3 and "norm" not in name}
    assert len(hidden) == 14
    assert hidden == pytest.approx(dict.fromkeys(hidden, 0.0), abs=0.1)


@pytest.mark.long
def test_decay_that_is_the_same_for_all_widths_is_detected(ranks: RunOnRanks) -> None:
    found = slopes(ranks, measure_with_decay_unscaled)
    assert min(found[f"blocks.0.attn.{part}"] for part in "qkv") > 0.2
