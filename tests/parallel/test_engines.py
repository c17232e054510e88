"""The project's engine of ZeRO 1 and 2 and DeepSpeed's of ZeRO 3 train the same model."""

from typing import Any

import pytest

from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.schema import Config, TrainConfig
from foretrain.parallel.groups import init_groups
from foretrain.parallel.layout import Layout
from foretrain.trainer.build import build_engine
from foretrain.trainer.verification.probe import hash_weights
from tests.conftest import RunOnRanks
from tests.parallel import workers

Start = tuple[dict[str, str], list[float]]
"""The hashes of the initial weights, and the losses of three steps."""


def starts(precision: Any) -> list[Start]:
    """Those of ZeRO 1, 2 and 3 on two replicas."""
    train = TrainConfig(global_batch_size=4, micro_batch_size=1, precision=precision)
    config = Config(model=workers.small_model(), train=train, optimizer=OptimizerConfig(lr=1e-2))
    found = []
    for stage in (1, 2, 3):
        engine, state = build_engine(config, init_groups(Layout(dp=2, zero_stage=stage), "cpu", timeout_s=60.0))
        weights = hash_weights(state)
        engine.set_lr(1.0)
        share = engine.groups.share.samples(train.global_batch_size)
        batches = [workers.batch(step, config.model, train) for step in range(3)]
        found.append((weights, [engine.train_step(*(part[share] for part in batch)).loss for batch in batches]))
    return found


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp32", marks=pytest.mark.long)])
def test_both_engines_start_from_the_same_bits_and_have_one_curve(precision: str, ranks: RunOnRanks) -> None:
    for (weights, losses), *others in ranks(2, starts, precision):
        for other_weights, other_losses in others:
            assert other_weights == weights
            assert other_losses == pytest.approx(losses, rel=1e-5)
