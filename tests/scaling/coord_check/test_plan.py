"""What a coordinate check trains is known before a process starts."""

import subprocess
import sys
from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain.configs.load import load
from foretrain.configs.schema import Config
from foretrain.parallel.layout import Layout
from foretrain.scaling.architecture import architecture
from foretrain.scaling.coord_check.plan import Device, make_plan, parse_sizes
from foretrain.scaling.layouts import parse_layout

MUP = ["mup.parametrization=mup", "mup.base.d_model=64"]
COMPLETEP = ["mup.parametrization=completep", "mup.base.d_model=64", "mup.base.num_layers=2"]
PURE = ["judge", "plan", "verdict"]
PRESETS = ["runs/dry_run", "runs/gpt2_124m_a100", "runs/llama_7b_a100", "runs/gpt3_175b_a100"]


def config(*overrides: str) -> Config:
    return load("runs/dry_run", list(overrides))


@given(st.integers(0, 6), st.sampled_from(["cpu", "cuda"]))
def test_default_widths_double_from_the_base_whatever_it_is(doublings: int, device: Device) -> None:
    base = 32 << doublings
    plan = make_plan(config("mup.parametrization=mup", f"mup.base.d_model={base}"), device=device)
    (ladder,) = plan.ladders
    assert ladder.sizes == ((64, 128, 256, 512) if device == "cpu" else (256, 512, 1024, 2048))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_a_ladder_with_its_architecture(preset: str) -> None:
    full = load(preset)
    plan = make_plan(full)
    assert len(plan.ladders[0].rungs) >= 3
    for rung in plan.rungs:
        (small, _) = plan.configs_of(rung)
        assert architecture(small) == architecture(full)
        assert (small.model.d_model, small.model.num_layers) == (rung.width, rung.depth)
        assert small.model.vocab_size == 16 and small.model.seq_len == 32


def test_depths_are_checked_if_the_parametrization_holds_over_them() -> None:
    assert [ladder.axis for ladder in make_plan(config(*MUP)).ladders] == ["width"]
    widths, depths = make_plan(config(*COMPLETEP)).ladders
    assert depths.sizes == (2, 4, 8, 16)
    assert {rung.width for rung in depths.rungs} == {128}, "not the base width, at which half of the rules do nothing"
    assert {rung.depth for rung in widths.rungs} == {2}
    assert len(make_plan(config(*COMPLETEP)).rungs) == 7, "one model is in both ladders"
    assert len(make_plan(config(*COMPLETEP), depths=()).ladders) == 1
    assert make_plan(config(*MUP), depths=[4, 2, 8]).ladders[1].sizes == (2, 4, 8)


def test_a_pipeline_gets_a_block_for_each_stage_and_the_microbatches_it_needs() -> None:
    plan = make_plan(config(*MUP), layout=Layout(pp=2, vpp=2, schedule="zbv"))
    for rung in plan.rungs:
        (small, _) = plan.configs_of(rung)
        assert small.model.num_layers == 4
        assert plan.layout.num_microbatches(small.train) == 4 and small.train.global_batch_size == 16


def test_the_learning_rate_is_proportional_to_the_initial_weights() -> None:
    rates = [make_plan(config(*MUP, f"model.init_std={std}", "optimizer.lr=9")).lr for std in (0.02, 0.2)]
    assert rates[1] == pytest.approx(10 * rates[0]) and log2(0.02 / rates[0]) == pytest.approx(5)
    assert make_plan(config(*MUP), lr=0.5).lr == 0.5
    assert make_plan(config(*MUP, "optimizer.kind=sgd", "optimizer.lr=0.3")).lr == 0.3


def test_seeds_differ_in_their_weights_alone() -> None:
    plan = make_plan(config(*MUP, "train.seed=5"), num_seeds=3)
    assert [each.train.seed for each in plan.configs_of(plan.rungs[0])] == [5, 6, 7]


@pytest.mark.parametrize(
    ("num_steps", "judged"), [(8, (1, 3, 8)), (1, (1,)), (3, (1, 3)), (2, (1, 2)), (20, (1, 3, 20))]
)
def test_early_steps_and_the_last_one_are_judged(num_steps: int, judged: tuple[int, ...]) -> None:
    assert make_plan(config(*MUP), num_steps=num_steps).judged_steps == judged


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"widths": [64, 128]}, "--widths 64,128: a slope through fewer than 3 sizes"),
        ({"widths": [64, 65, 256]}, "take a multiple of"),
        ({"widths": [64, 96, 128]}, "less than 4 times"),
        ({"depths": [2, 2, 4]}, "--depths 2,2,4: a slope through fewer than 3 sizes"),
        ({"num_seeds": 0}, "--seeds 0"),
        ({"num_steps": 0}, "--steps 0"),
        ({"lr": 0.0}, "--lr 0"),
        ({"lr": float("nan")}, "--lr nan"),
        ({"lr": float("inf")}, "--lr inf"),
        ({"layout": Layout(tp=3)}, "parallel.tp = 3"),
    ],
)
def test_a_check_that_is_impossible_is_refused(arguments: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make_plan(config(*MUP), **arguments)


def test_a_base_shape_that_is_impossible_is_refused_before_a_model_starts() -> None:
    with pytest.raises(ValueError, match=r"mup\.base: .*num_heads"):
        make_plan(config("mup.parametrization=mup", "mup.base.d_model=40"), widths=[64, 128, 256])


def test_sizes_and_layouts_are_parsed() -> None:
    assert parse_sizes("--widths", " 32, 64") == [32, 64] and parse_sizes("--widths", "") == []
    assert parse_layout("tp=2 sp") == Layout(tp=2, sp=True)
    with pytest.raises(ValueError, match=r"--widths 32,x: 'x' is not a size"):
        parse_sizes("--widths", "32,x")
    with pytest.raises(ValueError, match=r"--layout: 'ep=2' in 'ep=2' is not understood"):
        parse_layout("ep=2")
    with pytest.raises(ValueError, match="names 2 layouts"):
        parse_layout("tp=2,pp=2")


def test_a_plan_and_a_verdict_need_no_torch() -> None:
    modules = ", ".join(f"foretrain.scaling.coord_check.{name}" for name in PURE)
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
