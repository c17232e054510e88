"""Gradients are reduced while the backward pass goes on, and weights are gathered while the forward pass goes on."""

from collections.abc import Callable
from typing import Any

import pytest
import torch.distributed as dist
from torch import nn

from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.schema import ModelConfig, TrainConfig
from foretrain.parallel.layout import Layout
from foretrain.parallel.zero import bucketed
from foretrain.parallel.zero.gradients import Gradients
from foretrain.trainer.model.gpt import Stage
from tests.conftest import RunOnRanks
from tests.parallel import workers

LAYOUTS = [
    Layout(dp=2),
    pytest.param(Layout(dp=2, tp=2, sp=True), marks=pytest.mark.long),
    pytest.param(Layout(dp=2, pp=2), marks=pytest.mark.long),
    pytest.param(Layout(dp=2, pp=2, vpp=2, schedule="interleaved_zb"), marks=pytest.mark.long),
    pytest.param(Layout(dp=2, pp=2, vpp=2, schedule="zbv"), marks=pytest.mark.long),
]
PRECISIONS = ["bf16", pytest.param("fp32", marks=pytest.mark.long)]


def small_buckets() -> None:
    """Several buckets in each block, so that their order and their ends matter."""
    bucketed.BUCKET_ELEMENTS = bucketed.BUCKET_ELEMENTS_PER_REPLICA = 500


def losses(layout: Layout, model: ModelConfig, precision: Any, num_steps: int) -> list[float]:
    train = TrainConfig(global_batch_size=16, micro_batch_size=1, precision=precision)
    engine = workers.make_engine(layout, model, train, OptimizerConfig(lr=1e-2))
    engine.set_lr(1.0)
    share = engine.groups.share.samples(train.global_batch_size)
    found = []
    for step in range(num_steps):
        tokens, targets = workers.batch(step, model, train)
        found.append(engine.train_step(tokens[share], targets[share]).loss)
    return found


def order_of_reductions(layout: Layout) -> list[str]:
    """ "reduce" for each bucket that is reduced, and "finish" when all backward passes are done."""
    small_buckets()
    reduce, finish, found = dist.reduce_scatter_tensor, Gradients.finish, []

    def noted_reduce(*args: Any, **keywords: Any) -> Any:
        found.append("reduce")
        return reduce(*args, **keywords)

    def noted_finish(self: Gradients) -> None:
        found.append("finish")
        finish(self)

    dist.reduce_scatter_tensor, Gradients.finish = noted_reduce, noted_finish  # type: ignore[method-assign]
    losses(layout, workers.small_model(), "bf16", 1)
    return found


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_all_buckets_are_reduced_before_the_last_backward_pass_ends(layout: Layout, ranks: RunOnRanks) -> None:
    for found in ranks(layout.world_size, order_of_reductions, layout):
        assert found.count("reduce") > 4
        assert found[-1] == "finish"


def losses_with_late_gathers(layout: Layout, model: ModelConfig, precision: str, lie: bool) -> tuple[list[float], ...]:
    """Losses of three steps, and the same if a bucket of weights arrives only when it is waited for.

    With `lie`, stages say that a module alone reads the weights of their blocks which is never called.
    """
    small_buckets()
    usual = losses(layout, model, precision, 3)
    gather = dist.all_gather_into_tensor

    class Late:
        def __init__(self, *args: Any, **keywords: Any) -> None:
            self.wait: Callable[[], object] = lambda: gather(*args, **keywords | {"async_op": False})

    def late(*args: Any, async_op: bool = False, **keywords: Any) -> Any:
        return Late(*args, **keywords) if async_op else gather(*args, **keywords)

    dist.all_gather_into_tensor = late
    if lie:
        units = Stage.units
        Stage.units = lambda self: iter([nn.ModuleList(units(self))])  # type: ignore[method-assign]
    return usual, losses(layout, model, precision, 3)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("model", [workers.small_model(), workers.gpt2_model()], ids=["untied", "tied"])
def test_no_module_reads_weights_that_have_not_arrived(
    model: ModelConfig, layout: Layout, precision: str, ranks: RunOnRanks
) -> None:
    for usual, late in ranks(layout.world_size, losses_with_late_gathers, layout, model, precision, False):
        assert late == usual


def test_weights_that_are_read_too_early_would_be_seen(ranks: RunOnRanks) -> None:
    for usual, late in ranks(2, losses_with_late_gathers, Layout(dp=2), workers.small_model(), "bf16", True):
        assert late[0] == usual[0]
        assert late[2] != usual[2]


def waits_of_blocks() -> list[tuple[int, int]]:
    """For each block of the second step: its number, and the buckets of weights that have arrived when it begins."""
    small_buckets()
    gather, arrived, found = dist.all_gather_into_tensor, [0], []

    class Noted:
        def __init__(self, work: Any) -> None:
            self._work = work

        def wait(self) -> None:
            self._work.wait()
            arrived[0] += 1

    dist.all_gather_into_tensor = lambda *args, **keywords: Noted(gather(*args, **keywords))
    train = TrainConfig(global_batch_size=2, micro_batch_size=1)
    model = workers.small_model()
    engine = workers.make_engine(Layout(dp=2), model, train, OptimizerConfig(lr=1e-2))
    engine.set_lr(1.0)
    tokens, targets = (part[:1] for part in workers.batch(0, model, train))
    engine.train_step(tokens, targets)
    (stage,) = engine.stages
    for number, block in enumerate(stage.get_submodule("blocks").children()):
        block.register_forward_pre_hook(lambda *_, number=number: found.append((number, arrived[0])))  # type: ignore[misc]
    arrived[0] = 0
    engine.train_step(tokens, targets)
    return found


def test_a_block_begins_before_the_weights_of_the_next_have_arrived(ranks: RunOnRanks) -> None:
    for found in ranks(2, waits_of_blocks):
        assert [number for number, _ in found] == [0, 1, 2, 3]
        counts = [count for _, count in found]
        assert counts == sorted(set(counts))


def late_gradient() -> str:
    """What an engine says of a module that is called twice in a micro-batch."""
    small_buckets()
    engine = workers.make_engine(
        Layout(), workers.small_model(), TrainConfig(global_batch_size=2, micro_batch_size=1), OptimizerConfig()
    )
    tokens, _ = workers.batch(0, workers.small_model(), TrainConfig(global_batch_size=2, micro_batch_size=1))
    engine.zero.start_step()
    try:
        for _ in range(3):
            engine.zero.backward(engine.zero.module(tokens).square().mean())
    except RuntimeError as error:
        return str(error)
    return ""


def test_a_gradient_after_its_sum_was_reduced_is_an_error(ranks: RunOnRanks) -> None:
    (message,) = ranks(1, late_gradient)
    assert "came after its sum was reduced" in message
