"""One curve: loss and gradient norm do not depend on the layout, and are repeated bitwise by the same one."""

from dataclasses import replace
from typing import Any

import pytest

from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.schema import ModelConfig, ParallelConfig, TrainConfig
from foretrain.parallel.engine import StepResult
from foretrain.parallel.layout import Layout
from tests.conftest import RunOnRanks
from tests.parallel import workers

TRAIN = TrainConfig(global_batch_size=16, micro_batch_size=2)
# A rate at which Adam does not yet turn the last bits of a gradient into different weights, and a norm that clips.
OPTIMIZER = OptimizerConfig(lr=1e-3, clip_norm=0.5)
LLAMA = workers.small_model()
GPT2 = workers.gpt2_model()

MAIN_LAYOUTS = [Layout(tp=2), Layout(pp=2), Layout(dp=2), Layout(tp=2, pp=2)]
LAYOUTS = [
    Layout(),
    Layout(tp=2, zero_stage=0),
    Layout(tp=2, sp=True),
    Layout(pp=2, zero_stage=0),
    Layout(dp=2, zero_stage=0),
    Layout(dp=2, zero_stage=2),
    Layout(dp=2, zero_stage=3),
    Layout(tp=2, pp=2, sp=True),
    Layout(pp=2, vpp=2, schedule="interleaved_1f1b"),
    Layout(pp=2, vpp=2, schedule="interleaved_zb"),
    Layout(dp=2, tp=2, pp=2),
    Layout(cp=2),
    Layout(dp=2, cp=2, zero_stage=2),
    Layout(tp=2, cp=2, sp=True),
    Layout(pp=2, stage_layers=(1, 3)),
    Layout(pp=2, vpp=2, schedule="zbv", stage_layers=(1, 1, 1, 1)),
]
TIED_LAYOUTS = [
    Layout(pp=2, cp=2),
    Layout(tp=2, sp=True),
    Layout(pp=2),
    Layout(pp=2, zero_stage=0),
    Layout(dp=2, zero_stage=3),
    Layout(tp=2, pp=2, vpp=2, schedule="zbv"),
]


@pytest.fixture(scope="module")
def llama_curve(ranks: RunOnRanks) -> list[StepResult]:
    """The curve of one process, without ZeRO."""
    return run(ranks, Layout(zero_stage=0), LLAMA, 20)


@pytest.fixture(scope="module")
def gpt2_curve(ranks: RunOnRanks) -> list[StepResult]:
    return run(ranks, Layout(zero_stage=0), GPT2, 6)


def run(
    ranks: RunOnRanks,
    layout: Layout,
    model: ModelConfig,
    num_steps: int,
    train: TrainConfig = TRAIN,
    parallel: ParallelConfig | None = None,
) -> list[StepResult]:
    curves = ranks(layout.world_size, workers.curve, layout, model, train, OPTIMIZER, num_steps, parallel)
    assert all(curve == curves[0] for curve in curves), "ranks report different curves"
    return curves[0]


@pytest.mark.parametrize("layout", MAIN_LAYOUTS, ids=str)
def test_twenty_steps_are_those_of_one_process(
    layout: Layout, llama_curve: list[StepResult], ranks: RunOnRanks
) -> None:
    assert workers.max_difference(run(ranks, layout, LLAMA, 20), llama_curve) < 1e-5


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_layout_gives_the_curve_of_one_process(
    layout: Layout, llama_curve: list[StepResult], ranks: RunOnRanks
) -> None:
    assert workers.max_difference(run(ranks, layout, LLAMA, 6), llama_curve[:6]) < 1e-5


@pytest.mark.parametrize("layout", TIED_LAYOUTS, ids=str)
def test_tied_embeddings_biases_and_learned_positions_keep_the_curve(
    layout: Layout, gpt2_curve: list[StepResult], ranks: RunOnRanks
) -> None:
    assert workers.max_difference(run(ranks, layout, GPT2, 6), gpt2_curve) < 1e-5


@pytest.mark.parametrize("layout", [Layout(dp=2, zero_stage=2), Layout(dp=2, tp=2, pp=2)], ids=str)
def test_the_same_layout_gives_the_same_curve_bitwise(layout: Layout, ranks: RunOnRanks) -> None:
    assert run(ranks, layout, LLAMA, 6) == run(ranks, layout, LLAMA, 6)


def test_the_curve_moves_and_is_clipped(llama_curve: list[StepResult]) -> None:
    assert min(step.grad_norm for step in llama_curve) > OPTIMIZER.clip_norm, "a step was not clipped"
    assert llama_curve[-1].loss < llama_curve[0].loss - 0.01


def test_another_micro_batch_size_gives_the_same_curve(llama_curve: list[StepResult], ranks: RunOnRanks) -> None:
    train = TrainConfig(global_batch_size=16, micro_batch_size=8)
    assert workers.max_difference(run(ranks, Layout(), LLAMA, 6, train), llama_curve[:6]) < 1e-5


@pytest.fixture(scope="module")
def held_out_losses(ranks: RunOnRanks) -> list[float]:
    return ranks(1, workers.held_out, Layout(zero_stage=0), GPT2, TRAIN, OPTIMIZER)[0]


@pytest.mark.parametrize(
    "layout",
    [
        Layout(dp=2, zero_stage=3),
        Layout(tp=2, pp=2, sp=True),
        Layout(pp=2, cp=2),
        Layout(pp=2, vpp=2, schedule="interleaved_1f1b"),
        Layout(pp=2, vpp=2, schedule="interleaved_zb"),
        Layout(pp=2, vpp=2, schedule="zbv"),
    ],
    ids=str,
)
def test_evaluation_between_steps_gives_the_losses_of_one_process(
    layout: Layout, held_out_losses: list[float], ranks: RunOnRanks
) -> None:
    for losses in ranks(layout.world_size, workers.held_out, layout, GPT2, TRAIN, OPTIMIZER):
        assert losses == pytest.approx(held_out_losses, rel=1e-5)


@pytest.mark.parametrize(
    ("layout", "option"),
    [
        (Layout(dp=2), "offload_optimizer"),
        (Layout(dp=2, pp=2), "offload_optimizer"),
        (Layout(dp=2, pp=2, vpp=2, schedule="zbv"), "offload_optimizer"),
        (Layout(dp=2, zero_stage=2), "overlap_comm"),
        (Layout(dp=2, zero_stage=3), "offload_params"),
        (Layout(dp=2, zero_stage=3), "overlap_comm"),
    ],
    ids=str,
)
def test_offload_and_overlap_keep_the_curve(
    layout: Layout, option: str, llama_curve: list[StepResult], ranks: RunOnRanks
) -> None:
    parallel = ParallelConfig(pp=layout.pp, zero_stage=layout.zero_stage, **{option: True})  # type: ignore[arg-type]
    assert workers.max_difference(run(ranks, layout, LLAMA, 6, TRAIN, parallel), llama_curve[:6]) < 1e-5


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved_zb"])
def test_bf16_with_offload_and_tied_ends_follows_the_fp32_curve(
    schedule: str, gpt2_curve: list[StepResult], ranks: RunOnRanks
) -> None:
    layout = Layout(pp=2, vpp=1 if schedule == "1f1b" else 2, schedule=schedule)
    train, parallel = replace(TRAIN, precision="bf16"), ParallelConfig(pp=2, offload_optimizer=True)
    curve = run(ranks, layout, GPT2, 6, train, parallel)
    assert max(abs(x.loss - y.loss) / y.loss for x, y in zip(curve, gpt2_curve, strict=True)) < 2e-3


@pytest.mark.parametrize("kind", ["selective", "full"])
@pytest.mark.parametrize(
    "layout", [Layout(dp=2, zero_stage=3), Layout(tp=2, sp=True), Layout(pp=2, vpp=2, schedule="zbv")], ids=str
)
def test_recomputation_keeps_the_curve(
    kind: Any, layout: Layout, llama_curve: list[StepResult], ranks: RunOnRanks
) -> None:
    train = replace(TRAIN, recompute=kind, recompute_layers=3)
    assert workers.max_difference(run(ranks, layout, LLAMA, 6, train), llama_curve[:6]) < 1e-5


@pytest.mark.parametrize("sp", [False, True], ids=["", "sp"])
def test_fewer_key_value_heads_than_ranks_keep_the_curve(sp: bool, ranks: RunOnRanks) -> None:
    model = workers.small_model(num_heads=8, num_kv_heads=2, head_dim=8, qk_norm=True, bias=True)
    expected = run(ranks, Layout(zero_stage=0), model, 4)
    assert workers.max_difference(run(ranks, Layout(tp=4, sp=sp), model, 4), expected) < 1e-5


@pytest.mark.parametrize(
    "layout",
    [
        Layout(),
        Layout(dp=2, zero_stage=2),
        Layout(dp=2, zero_stage=3),
        Layout(tp=2, pp=2, sp=True),
        Layout(pp=2, vpp=2, schedule="interleaved_zb"),
        Layout(pp=2, vpp=2, schedule="zbv"),
    ],
    ids=str,
)
def test_bf16_follows_the_fp32_curve(layout: Layout, gpt2_curve: list[StepResult], ranks: RunOnRanks) -> None:
    bf16 = TrainConfig(global_batch_size=16, micro_batch_size=2, precision="bf16")
    curve = run(ranks, layout, GPT2, 6, bf16)
    # bf16 keeps 8 bits: one value is off by up to 2^-9 = 0.2 %, and a mean over a batch by much less.
    assert max(abs(x.loss - y.loss) / y.loss for x, y in zip(curve, gpt2_curve, strict=True)) < 2e-3
    assert max(abs(x.grad_norm - y.grad_norm) / y.grad_norm for x, y in zip(curve, gpt2_curve, strict=True)) < 3e-2
