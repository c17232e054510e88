"""Gradients are reduced during the backward pass, and weights are gathered during the forward pass."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.schema import Config, ModelConfig, TrainConfig
from foretrain.parallel.groups import init_groups
from foretrain.parallel.layout import Layout
from foretrain.parallel.zero import bucketed
from foretrain.parallel.zero.gradients import Gradients
from foretrain.trainer.build import build_engine
from foretrain.trainer.model.gpt import Stage
from tests.conftest import RunOnRanks
from tests.parallel import workers

LONG_LAYOUTS = [
    Layout(dp=2, tp=2, sp=True),
    Layout(dp=2, pp=2),
    Layout(dp=2, pp=2, vpp=2, schedule="interleaved_zb"),
    Layout(dp=2, pp=2, vpp=2, schedule="zbv"),
]
LAYOUTS = [Layout(dp=2), *(pytest.param(layout, marks=pytest.mark.long) for layout in LONG_LAYOUTS)]
BF16, FP32 = (
    [(model, precision) for model in (workers.small_model(), workers.gpt2_model())] for precision in ("bf16", "fp32")
)
"""Models without and with tied embeddings, and their precision."""


def small_buckets() -> None:
    """Several buckets in each block, so that their order and their ends matter."""
    bucketed.BUCKET_ELEMENTS = bucketed.BUCKET_ELEMENTS_PER_REPLICA = 500


def losses(layout: Layout, model: ModelConfig, precision: Any, num_steps: int) -> list[float]:
    train = TrainConfig(global_batch_size=8, micro_batch_size=1, precision=precision)
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


def arrive_late() -> None:
    """From now on, weights of other replicas arrive only when they are waited for."""
    gather = dist.all_gather_into_tensor

    class Late:
        def __init__(self, *args: Any, **keywords: Any) -> None:
            self.wait: Callable[[], object] = lambda: gather(*args, **keywords | {"async_op": False})

    def late(*args: Any, async_op: bool = False, **keywords: Any) -> Any:
        return Late(*args, **keywords) if async_op else gather(*args, **keywords)

    dist.all_gather_into_tensor = late


def losses_with_late_gathers(
    layout: Layout, cases: Sequence[tuple[ModelConfig, str]], lie: bool = False
) -> list[tuple[list[float], list[float]]]:
    """For each case, losses of three steps, and the same if a bucket of weights arrives only when it is waited for.

    With `lie`, stages say that a module alone reads the weights of their blocks which is never called.
    """
    small_buckets()
    usual = [losses(layout, *case, 3) for case in cases]
    arrive_late()
    if lie:
        units = Stage.units
        Stage.units = lambda self: iter([nn.ModuleList(units(self))])  # type: ignore[method-assign]
    return [(each, losses(layout, *case, 3)) for each, case in zip(usual, cases, strict=True)]


@pytest.mark.parametrize(
    ("layout", "cases"),
    [
        pytest.param(Layout(dp=2), BF16, id=f"{Layout(dp=2)} bf16"),
        pytest.param(Layout(dp=2), FP32, id=f"{Layout(dp=2)} fp32", marks=pytest.mark.long),
        *(pytest.param(layout, BF16 + FP32, id=str(layout), marks=pytest.mark.long) for layout in LONG_LAYOUTS),
    ],
)
def test_no_module_reads_weights_that_have_not_arrived(
    layout: Layout, cases: list[tuple[ModelConfig, str]], ranks: RunOnRanks
) -> None:
    for of_rank in ranks(layout.world_size, losses_with_late_gathers, layout, cases):
        for (usual, late), case in zip(of_rank, cases, strict=True):
            assert late == usual, case


def test_weights_that_are_read_too_early_would_be_seen(ranks: RunOnRanks) -> None:
    for ((usual, late),) in ranks(2, losses_with_late_gathers, Layout(dp=2), BF16[:1], True):
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
    (stage,) = engine.stages
    engine.train_step(tokens, targets)
    for number, block in enumerate(stage.get_submodule("blocks").children()):
        block.register_forward_pre_hook(lambda *_, number=number: found.append((number, arrived[0])))
    arrived[0] = 0
    engine.train_step(tokens, targets)
    return found


def test_a_block_begins_before_the_weights_of_the_next_have_arrived(ranks: RunOnRanks) -> None:
    for found in ranks(2, waits_of_blocks):
        assert [number for number, _ in found] == [0, 1, 2, 3]
        counts = [count for _, count in found]
        assert counts == sorted(set(counts))


def error_of(break_rules: Callable[[Any, torch.Tensor], object]) -> str:
    """What the engine says of backward passes that it does not expect."""
    small_buckets()
    train = TrainConfig(global_batch_size=2, micro_batch_size=1)
    engine = workers.make_engine(Layout(), workers.small_model(), train, OptimizerConfig())
    tokens, _ = workers.batch(0, workers.small_model(), train)
    try:
        break_rules(engine.zero, tokens)
    except RuntimeError as error:
        return str(error)
    return ""


def three_passes(zero: Any, tokens: torch.Tensor) -> None:
    """One more than there are micro-batches."""
    zero.start_step()
    for _ in range(3):
        zero.backward(zero.module(tokens).square().mean())


def pass_between_steps(zero: Any, tokens: torch.Tensor) -> None:
    zero.module(tokens).square().mean().backward()


@pytest.mark.parametrize(
    ("break_rules", "message"),
    [(three_passes, "came after its sum was reduced"), (pass_between_steps, "outside of a training step")],
)
def test_a_gradient_that_is_not_expected_is_an_error(
    break_rules: Callable[[Any, torch.Tensor], object], message: str, ranks: RunOnRanks
) -> None:
    (found,) = ranks(1, error_of, break_rules)
    assert message in found


def norms_after_a_failure(zero_stage: int) -> list[float]:
    """Gradient norms of a step, without and with a step before it whose update failed."""
    found = []
    for fails in (False, True):
        train = TrainConfig(global_batch_size=4, micro_batch_size=1)
        layout = Layout(dp=2, zero_stage=zero_stage)
        engine = workers.make_engine(layout, workers.small_model(), train, OptimizerConfig(lr=1e-2))
        engine.set_lr(1.0)
        tokens, targets = (
            part[engine.groups.share.samples(4)] for part in workers.batch(0, workers.small_model(), train)
        )
        if fails:
            optimizer: Any = engine.zero.optimizer
            step, optimizer.step = optimizer.step, None
            with pytest.raises(TypeError):
                engine.train_step(tokens, targets)
            optimizer.step = step
        found.append(engine.train_step(tokens, targets).grad_norm)
    return found


@pytest.mark.parametrize("zero_stage", [0, 1, 2])
def test_a_step_after_one_that_failed_starts_from_nothing(zero_stage: int, ranks: RunOnRanks) -> None:
    for sound, after_failure in ranks(2, norms_after_a_failure, zero_stage):
        assert after_failure == sound


def weights_outside_of_a_forward_pass() -> tuple[list[float], list[float], list[float]]:
    """Sums of all weights after a step: of the modules, of the shards, and of the fp32 state, if gathers are late."""
    small_buckets()
    train = TrainConfig(global_batch_size=2, micro_batch_size=1, precision="bf16")
    config = Config(model=workers.small_model(), train=train, optimizer=OptimizerConfig(lr=1e-1))
    arrive_late()
    engine, state = build_engine(config, init_groups(Layout(dp=2), "cpu", timeout_s=60.0))
    engine.set_lr(1.0)
    batch = [part[engine.groups.share.samples(2)] for part in workers.batch(0, workers.small_model(), train)]
    engine.train_step(*batch)
    modules = [float(parameter.float().sum()) for stage in engine.stages for parameter in stage.parameters()]
    engine.train_step(*batch)
    shards = [float(shard.values.float().sum()) for shard in state.shards]
    masters = [float(values.bfloat16().float().sum()) for _, values in state.items()]
    return modules, shards, masters


def test_weights_that_are_read_outside_of_a_forward_pass_have_arrived(ranks: RunOnRanks) -> None:
    first, second = ranks(2, weights_outside_of_a_forward_pass)
    assert first == second
    assert first[1] == pytest.approx(first[2], rel=1e-6)


def states_with_a_frozen_parameter(zero_stage: int, precision: Any) -> list[bool]:
    """Whether the state of a parameter that is not trained is its weight, before and after `set`."""
    train = TrainConfig(global_batch_size=2, micro_batch_size=1, precision=precision)
    build = bucketed.BucketedZero.build

    def freeze(self: bucketed.BucketedZero, stages: Any, *args: Any) -> None:
        stages[0].final_norm.weight.requires_grad_(False)
        build(self, stages, *args)

    bucketed.BucketedZero.build = freeze  # type: ignore[assignment,method-assign]
    engine = workers.make_engine(Layout(dp=2, zero_stage=zero_stage), workers.small_model(), train, OptimizerConfig())
    engine.set_lr(1.0)
    engine.train_step(
        *(part[engine.groups.share.samples(2)] for part in workers.batch(0, workers.small_model(), train))
    )
    gain = engine.stages[0].get_parameter("final_norm.weight")
    kept = [bool((engine.zero.get(gain, "weight") == 1).all()), not engine.zero.get(gain, "exp_avg").any()]
    engine.zero.set(gain, "weight", torch.full_like(gain, 2.0, dtype=torch.float32))
    engine.zero.set(gain, "exp_avg", torch.full_like(gain, 2.0, dtype=torch.float32))
    return [*kept, bool((gain == 2).all()), not engine.zero.get(gain, "exp_avg").any()]


@pytest.mark.parametrize(("zero_stage", "precision"), [(0, "fp32"), (1, "bf16"), (2, "bf16")])
def test_a_parameter_that_is_not_trained_keeps_its_weight(zero_stage: int, precision: str, ranks: RunOnRanks) -> None:
    for found in ranks(2, states_with_a_frozen_parameter, zero_stage, precision):
        assert all(found)
