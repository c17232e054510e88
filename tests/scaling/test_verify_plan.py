"""The trials of a verification are known, and each refusal explained, before a process starts."""

import subprocess
import sys
from dataclasses import asdict
from math import prod
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain.configs.data import DataConfig
from foretrain.configs.load import load
from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.schema import Config, ModelConfig, ParallelConfig, TrainConfig
from foretrain.parallel.layout import Layout, check
from foretrain.scaling.layouts import SCHEDULES, all_layouts, parse_layouts
from foretrain.scaling.verify.plan import make_plan
from foretrain.scaling.verify.shrink import shrink, shrink_keeping_divisors
from foretrain.trainer.mup.parametrize import blueprint

PRESETS = ["runs/dry_run", "runs/gpt2_124m_a100", "runs/llama_7b_a100", "runs/llama_70b_a100", "runs/gpt3_175b_a100"]
PURE = [
    "foretrain.scaling.layouts",
    "foretrain.scaling.verify.plan",
    "foretrain.scaling.verify.shrink",
    "foretrain.scaling.verify.verdict",
]

SIZES = st.integers(1, 9)
LAYOUTS = st.builds(
    Layout, SIZES, SIZES, SIZES, SIZES, st.booleans(), st.sampled_from(SCHEDULES), st.integers(0, 3), cp=SIZES
)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Models of every kind whose sizes suit some layouts and not others."""
    num_kv_heads = draw(st.integers(1, 12))
    model = ModelConfig(
        num_layers=draw(st.integers(1, 12)),
        d_model=64,
        num_heads=num_kv_heads * draw(st.integers(1, 4)),
        num_kv_heads=num_kv_heads,
        head_dim=16,
        d_ff=draw(st.integers(1, 400)),
        seq_len=draw(st.integers(8, 200)),
        norm=draw(st.sampled_from(["rmsnorm", "layernorm"])),
        position=draw(st.sampled_from(["rope", "learned"])),
        activation=draw(st.sampled_from(["swiglu", "gelu", "gelu_tanh"])),
        bias=draw(st.booleans()),
        tie_embeddings=draw(st.booleans()),
        qk_norm=draw(st.booleans()),
    )
    return Config(model=model, optimizer=OptimizerConfig(clip_norm=draw(st.sampled_from([0.0, 0.1, 1.0]))))


@given(configs(), st.integers(1, 6), st.sampled_from(["fp32", "bf16", "both"]))
def test_every_layout_is_tried_or_refused_with_reasons(config: Config, max_processes: int, precision: str) -> None:
    plan = make_plan(config, max_processes=max_processes, precision=precision)
    num_precisions = 2 if precision == "both" else 1
    assert len(plan.trials) + len(plan.refused) == len(set(all_layouts(max_processes))) * num_precisions
    for trial in plan.trials:
        assert trial.layout.world_size <= max_processes
        small = plan.config_of(trial)
        check(trial.layout, small.model, small.train)  # the small config can run what the full one can
    for trial, reasons in plan.refused:
        assert all("parallel." in line or "train." in line for line in reasons.splitlines()), trial
        assert reasons


@given(configs(), LAYOUTS)
def test_a_named_layout_is_tried_or_refused_by_name(config: Config, layout: Layout) -> None:
    try:
        plan = make_plan(config, [layout])
    except ValueError as error:
        message = str(error)
    else:
        assert [trial.layout for trial in plan.trials] == [layout]
        check(layout, plan.config.model, plan.config.train)
        message = f"{layout} fp32: "
    assert message.startswith(f"{layout} fp32: ")


def test_every_mesh_of_up_to_four_processes_occurs_once() -> None:
    layouts = list(all_layouts(4))
    assert len(set(layouts)) == len(layouts)
    meshes = {(layout.dp, layout.tp, layout.cp, layout.pp) for layout in layouts}
    assert len(meshes) == 19 and all(prod(mesh) <= 4 for mesh in meshes)
    tried = {trial.layout for trial in make_plan(load("runs/gpt2_124m_a100")).trials}
    assert {layout.zero_stage for layout in tried} == {0, 1, 2, 3}
    assert {layout.schedule for layout in tried} == set(SCHEDULES)
    assert {(layout.dp, layout.tp, layout.cp, layout.pp) for layout in tried} == meshes - {(1, 1, 3, 1)}, (
        "three ranks cannot share 1,024 positions"
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_a_small_config_keeps_the_features_of_the_config(preset: str) -> None:
    config = load(preset)
    small = shrink(config, list(all_layouts(4)))
    sizes = {"num_layers", "d_model", "num_heads", "num_kv_heads", "head_dim", "d_ff", "vocab_size", "seq_len"}
    for name, value in asdict(config.model).items():
        assert name in {*sizes, "init_std"} or getattr(small.model, name) == value
    full, part = config.model, small.model
    assert (full.num_kv_heads is None) == (part.num_kv_heads is None)
    if full.num_kv_heads and part.num_kv_heads:
        assert full.num_heads // full.num_kv_heads == part.num_heads // part.num_kv_heads
    assert part.num_layers * part.d_model <= 9 * 32, "seconds on a CPU"
    assert 0 < small.optimizer.clip_norm <= 0.25 and small.optimizer.lr <= 1e-3


def test_offloading_and_overlap_are_kept_if_a_layout_allows_them() -> None:
    parallel = ParallelConfig(zero_stage=3, offload_optimizer=True, offload_params=True, overlap_comm=True)
    plan = make_plan(Config(parallel=parallel), [Layout(zero_stage=stage) for stage in range(4)] + [Layout(pp=2)])
    kept = [plan.config_of(trial).parallel for trial in plan.trials]
    assert [knobs.offload_optimizer for knobs in kept] == [False, True, True, True, True]
    assert [knobs.offload_params for knobs in kept] == [False, False, False, True, False]
    assert [knobs.overlap_comm for knobs in kept] == [False, True, True, True, False]


def test_recomputation_covers_the_same_share_of_blocks() -> None:
    config = Config(model=ModelConfig(num_layers=10), train=TrainConfig(recompute="full", recompute_layers=6))
    small = shrink(config, [Layout()])
    assert (small.train.recompute, small.train.recompute_layers, small.model.num_layers) == ("full", 3, 5)


@pytest.mark.parametrize("packing", ["windows", "documents", "best_fit"])
def test_packing_is_kept_and_the_corpus_is_not(packing: Any) -> None:
    config = Config(data=DataConfig(path="a/corpus", packing=packing))
    plan = make_plan(config, [Layout()])
    assert plan.config_of(plan.trials[0]).data == DataConfig(packing=packing)


def test_the_parametrization_is_kept_and_each_of_its_factors_shows() -> None:
    overrides = ["mup.parametrization=completep", "mup.base.d_model=256", "mup.base.num_layers=4"]
    small = shrink(load("runs/llama_7b_a100", overrides), [Layout(tp=2), Layout(pp=2)])
    plan = blueprint(small)
    scales = {param.name: param.scale for param in plan.table}
    down, up, embed = (scales[name] for name in ("blocks.0.mlp.down.weight", "blocks.0.mlp.up.weight", "embed.weight"))
    assert len({scale.lr for scale in (down, up, embed)}) == 3
    assert all(scale.eps != 1 for scale in scales.values())
    assert 1 not in (plan.multipliers.attention, plan.multipliers.residual, plan.multipliers.head)


@given(st.integers(1, 10**6), st.integers(1, 12), st.integers(1, 200))
def test_a_shrunk_number_keeps_its_divisors(number: int, max_divisor: int, at_least: int) -> None:
    small = shrink_keeping_divisors(number, max_divisor, at_least)
    assert small >= at_least
    assert all(small % d == 0 for d in range(1, max_divisor + 1) if number % d == 0)


@given(st.lists(LAYOUTS, min_size=1, max_size=5))
def test_layouts_are_named_as_they_are_printed(layouts: list[Layout]) -> None:
    text = ", ".join(str(layout) for layout in layouts)
    assert [str(layout) for layout in parse_layouts(text)] == [str(layout) for layout in layouts]


def test_layouts_may_be_named_by_the_keys_of_the_config() -> None:
    assert parse_layouts("dp=2 tp=2,pp=2 vpp=2 schedule=zbv sp=false zero_stage=0") == [
        Layout(dp=2, tp=2),
        Layout(pp=2, vpp=2, schedule="zbv", zero_stage=0),
    ]


@pytest.mark.parametrize(
    "text", ["", "dp=2,,tp=2", "dp", "dp=0", "dp=-1", "tp=two", "zero=4", "sp=2", "gpipe", "dp=2tp=2"]
)
def test_a_word_that_is_not_part_of_a_layout_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"--layouts: .*(is not understood: use dp=N|separate them by single commas)"):
        parse_layouts(text)


def test_a_sample_depends_on_its_seed_alone() -> None:
    config = load("runs/dry_run")
    samples = [make_plan(config, sample=5, seed=seed).trials for seed in (0, 0, 1)]
    assert samples[0] == samples[1] != samples[2]
    everything = make_plan(config).trials
    assert len(samples[0]) == 5 and set(samples[0]) < set(everything)
    assert make_plan(config, sample=10_000).trials == everything


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"max_processes": 0}, "--max-processes 0"),
        ({"num_steps": 0}, "--steps 0"),
        ({"sample": 0}, "--sample 0"),
        ({"precision": "fp8"}, "--precision fp8: use one of fp32, bf16, both"),
    ],
)
def test_numbers_that_leave_nothing_to_do_are_refused(arguments: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make_plan(load("runs/dry_run"), **arguments)


def test_a_plan_needs_no_torch() -> None:
    code = f"import sys, {', '.join(PURE)}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
