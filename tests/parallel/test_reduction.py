"""In bf16 runs, gradients are summed over the replicas in fp32: their sum is not rounded to bf16."""

from dataclasses import replace
from typing import Any

import pytest
import torch.distributed as dist

from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.schema import TrainConfig
from foretrain.parallel.layout import Layout
from foretrain.parallel.zero import Zero
from tests.conftest import RunOnRanks
from tests.parallel import workers

TRAIN = TrainConfig(global_batch_size=16, micro_batch_size=1, precision="bf16")


def error_of_the_sums(layout: Layout, is_planted: bool = False) -> float:
    """The greatest difference of a reduced gradient from the fp32 mean over replicas, relative to its largest value."""
    if is_planted:
        settings = Zero._settings
        Zero._settings = lambda *args: {**settings(*args), "communication_data_type": "bf16"}  # type: ignore[method-assign]
    engine = workers.make_engine(layout, workers.gpt2_model(), TRAIN, OptimizerConfig(lr=1e-3))
    engine.set_lr(1.0)
    deepspeed, reduce = engine.zero.engine, engine.zero.engine.allreduce_gradients
    errors = []

    def checked(*args: Any, **keywords: Any) -> None:
        if not deepspeed.is_gradient_accumulation_boundary():
            reduce(*args, **keywords)
            return
        parameters = [parameter for stage in engine.stages for parameter in stage.parameters()]
        means = [engine.zero.gradient(parameter).clone() for parameter in parameters]
        for mean in means:
            dist.all_reduce(mean, group=engine.groups.replicas)
        reduce(*args, **keywords)
        for parameter, mean in zip(parameters, means, strict=True):
            mean /= engine.groups.replicas.size()
            error = (engine.zero.gradient(parameter) - mean).abs().max() / mean.abs().max().clamp(min=1e-20)
            errors.append(float(error))

    deepspeed.allreduce_gradients = checked
    share = engine.groups.share.samples(TRAIN.global_batch_size)
    tokens, targets = workers.batch(0, workers.gpt2_model(), replace(TRAIN))
    engine.train_step(tokens[share], targets[share])
    assert errors
    return max(errors)


@pytest.mark.parametrize(
    "layout",
    [
        Layout(dp=2),
        pytest.param(Layout(dp=8), marks=pytest.mark.long),
        pytest.param(Layout(dp=2, tp=2), marks=pytest.mark.long),
        pytest.param(Layout(dp=2, pp=2), marks=pytest.mark.long),
    ],
    ids=str,
)
def test_gradients_are_summed_in_fp32(layout: Layout, ranks: RunOnRanks) -> None:
    assert max(ranks(layout.world_size, error_of_the_sums, layout)) < 1e-6


def test_a_sum_in_bf16_would_be_seen(ranks: RunOnRanks) -> None:
    assert max(ranks(2, error_of_the_sums, Layout(dp=2), True)) > 1e-4
