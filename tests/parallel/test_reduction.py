"""Gradients are summed over the replicas in fp32, in buckets."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist

from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.schema import TrainConfig
from foretrain.parallel.layout import Layout
from foretrain.parallel.zero import bucketed
from tests.conftest import RunOnRanks
from tests.parallel import workers

TRAIN = TrainConfig(global_batch_size=16, micro_batch_size=1, precision="bf16")
REDUCTIONS = ("reduce_scatter_tensor", "all_reduce")


@contextmanager
def replaced(name: str, function: Any) -> Iterator[None]:
    original = getattr(dist, name)
    setattr(dist, name, function)
    yield
    setattr(dist, name, original)


def train_one_step(layout: Layout) -> None:
    engine = workers.make_engine(layout, workers.gpt2_model(), TRAIN, OptimizerConfig(lr=1e-3))
    engine.set_lr(1.0)
    share = engine.groups.share.samples(TRAIN.global_batch_size)
    tokens, targets = workers.batch(0, workers.gpt2_model(), TRAIN)
    engine.train_step(tokens[share], targets[share])


def errors_of_the_sums(layout: Layout, is_planted: bool = False) -> list[float]:
    """The greatest difference of each bucket's sum from that of the same numbers in float64, relative to the greatest.

    Planted: the numbers are rounded to bf16 before they are summed.
    """
    bucketed.BUCKET_ELEMENTS = bucketed.BUCKET_ELEMENTS_PER_REPLICA = 500
    real, errors = dist.reduce_scatter_tensor, []

    def checked(out: torch.Tensor, flat: torch.Tensor, *, group: dist.ProcessGroup, async_op: bool) -> Any:
        expected = flat.double()
        dist.all_reduce(expected, group=group)
        part = expected.chunk(group.size())[group.rank()]
        if is_planted:
            flat.copy_(flat.bfloat16())
        work = real(out, flat, group=group, async_op=async_op)
        assert work is not None
        work.wait()
        errors.append(float((out - part).abs().max() / part.abs().max().clamp(min=1e-20)))
        return work

    with replaced("reduce_scatter_tensor", checked):
        train_one_step(layout)
    assert len(errors) > 2
    return errors


LAYOUTS = [
    Layout(dp=2),
    pytest.param(Layout(dp=8), marks=pytest.mark.long),
    pytest.param(Layout(dp=2, tp=2), marks=pytest.mark.long),
    pytest.param(Layout(dp=2, pp=2), marks=pytest.mark.long),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_gradients_are_summed_in_fp32(layout: Layout, ranks: RunOnRanks) -> None:
    assert max(map(max, ranks(layout.world_size, errors_of_the_sums, layout))) < 1e-6


def test_a_sum_in_bf16_would_be_seen(ranks: RunOnRanks) -> None:
    assert max(map(max, ranks(2, errors_of_the_sums, Layout(dp=2), True))) > 1e-4
