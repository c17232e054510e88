"""A coordinate check passes for correct parametrizations, and finds bugs that are planted one by one."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from foretrain.configs.load import load
from foretrain.configs.schema import Config
from foretrain.parallel.layout import Layout
from foretrain.scaling.coord_check.plan import CoordCheckPlan, Ladder, Rung, make_plan
from foretrain.scaling.coord_check.report import progress_of
from foretrain.scaling.coord_check.run import MEASURE, check
from foretrain.scaling.coord_check.verdict import CoordCheckVerdict
from tests.scaling.coord_check import bugs

BASE = ["mup.base.d_model=64", "model.d_model=64", "model.num_heads=4", "model.d_ff=192", "model.num_layers=2"]
GPT2 = ["model.norm=layernorm", "model.position=learned", "model.bias=true", "model.tie_embeddings=true"]
GROUPED = ["model.num_kv_heads=2", "model.qk_norm=true"]


class OtherProportions(CoordCheckPlan):
    """Models whose feed-forward layer does not widen with them."""

    def configs_of(self, rung: Rung) -> list[Config]:
        return [replace(each, model=replace(each.model, d_ff=192)) for each in super().configs_of(rung)]


class WiderHeads(CoordCheckPlan):
    """Models with as many heads at every width."""

    def configs_of(self, rung: Rung) -> list[Config]:
        return [
            replace(each, model=replace(each.model, num_heads=4, head_dim=rung.width // 4))
            for each in super().configs_of(rung)
        ]


def over_widths(*overrides: str, layout: Layout | None = None) -> CoordCheckPlan:
    config = load("runs/dry_run", [*BASE, "mup.parametrization=mup", *overrides])
    return make_plan(config, widths=[64, 128, 256], num_seeds=1, layout=layout)


def over_depths(*overrides: str) -> CoordCheckPlan:
    config = load("runs/dry_run", [*BASE, "mup.parametrization=completep", "mup.base.num_layers=2", *overrides])
    plan = make_plan(config, widths=[32, 64, 128], depths=[2, 4, 8, 16], num_seeds=1)
    return replace(plan, ladders=plan.ladders[1:])


def verdict_of(plan: CoordCheckPlan, measure: Callable | None = None) -> CoordCheckVerdict:
    target = MEASURE if measure is None else f"{measure.__module__}:{measure.__name__}"
    return check(plan, progress_of(plan, Console(quiet=True)), target)[1]


@pytest.mark.parametrize(
    "traits",
    [[], pytest.param(GPT2, marks=pytest.mark.long), pytest.param(GROUPED, marks=pytest.mark.long)],
    ids=["llama", "gpt2", "grouped"],
)
def test_mup_passes_over_widths(traits: list[str]) -> None:
    assert verdict_of(over_widths(*traits)).problems == ()


@pytest.mark.parametrize("traits", [[], pytest.param(GPT2, marks=pytest.mark.long)], ids=["llama", "gpt2"])
def test_completep_passes_over_depths(traits: list[str]) -> None:
    assert verdict_of(over_depths(*traits)).problems == ()


@pytest.mark.long
def test_completep_passes_over_widths() -> None:
    assert verdict_of(over_widths("mup.parametrization=completep", "mup.base.num_layers=1")).problems == ()


@pytest.mark.long
def test_the_standard_parametrization_fails_over_widths() -> None:
    assert not verdict_of(over_widths("mup.parametrization=standard")).passed


@pytest.mark.long
def test_mup_of_widths_alone_fails_over_depths() -> None:
    assert not verdict_of(over_depths("mup.parametrization=mup")).passed


@pytest.mark.parametrize(
    ("bug", "blamed"),
    [
        (bugs.hidden_lr_not_scaled, "blocks.0.attn.q changes as width^"),
        pytest.param(bugs.hidden_lr_by_the_root, "blocks.0.attn.q changes as width^", marks=pytest.mark.long),
        pytest.param(bugs.logits_not_multiplied, "logits grows as width^", marks=pytest.mark.long),
        pytest.param(bugs.logits_multiplied_twice, "logits changes as width^-", marks=pytest.mark.long),
        pytest.param(bugs.hidden_init_not_scaled, "blocks.0.attn.q grows as width^", marks=pytest.mark.long),
        (bugs.one_init_not_scaled, "blocks.1.mlp.down grows as width^"),
        pytest.param(bugs.embedding_lr_scaled, "embed changes as width^-", marks=pytest.mark.long),
        pytest.param(bugs.gain_lr_scaled, "blocks.0.attn_norm.weight changes as width^-", marks=pytest.mark.long),
        pytest.param(bugs.head_lr_by_the_root, "head.weight changes as width^-0.5", marks=pytest.mark.long),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_planted_bug_is_found_and_its_module_is_named(bug: Callable, blamed: str) -> None:
    verdict = verdict_of(over_widths(), bug)
    assert not verdict.passed
    assert verdict.problems[0].startswith(f"look here first: {blamed}"), verdict.problems


LARGE_EPS = ["optimizer.eps=0.01", "optimizer.clip_norm=0"]


@pytest.mark.long
def test_an_eps_that_is_not_scaled_is_found_if_eps_is_large() -> None:
    assert verdict_of(over_widths(*LARGE_EPS)).problems == ()
    assert not verdict_of(over_widths(*LARGE_EPS), bugs.eps_not_scaled).passed


@pytest.mark.long
def test_a_ratio_of_another_axis_is_found_if_axes_grow_differently() -> None:
    sound = over_widths("mup.base.d_ff=192")
    plan = OtherProportions(**vars(sound))
    assert verdict_of(plan).problems == ()
    verdict = verdict_of(plan, bugs.ratio_of_another_axis)
    assert "blocks.0.mlp.down" in verdict.problems[0]


@pytest.mark.parametrize(
    "bug",
    [
        bugs.residual_multiplier_missing,
        pytest.param(bugs.residual_multiplier_by_the_root, marks=pytest.mark.long),
        pytest.param(bugs.depth_counted_twice, marks=pytest.mark.long),
    ],
    ids=lambda bug: bug.__name__,
)
def test_a_planted_bug_of_depth_is_found(bug: Callable) -> None:
    assert not verdict_of(over_depths(), bug).passed


@pytest.mark.long
def test_a_wrong_scale_of_attention_is_not_found_as_the_help_says() -> None:
    sound = over_widths("mup.base.num_heads=4", "mup.base.head_dim=16")
    assert verdict_of(WiderHeads(**vars(sound)), bugs.attention_by_the_root).passed


def first_steps(layout: Layout | None = None) -> CoordCheckVerdict:
    return verdict_of(replace(over_widths(layout=layout), num_steps=1, ladders=NARROW))


NARROW = (Ladder("width", (Rung(64, 2), Rung(128, 2))),)


@pytest.fixture(scope="module")
def alone() -> CoordCheckVerdict:
    return first_steps()


@pytest.mark.parametrize(
    "layout",
    [
        Layout(tp=2, sp=True),
        pytest.param(Layout(pp=2), marks=pytest.mark.long),
        pytest.param(Layout(dp=2, zero_stage=3), marks=pytest.mark.long),
    ],
    ids=str,
)
def test_slopes_are_the_same_under_every_layout(layout: Layout, alone: CoordCheckVerdict) -> None:
    spread = first_steps(layout)
    assert [slope.module for slope in spread.slopes] == [slope.module for slope in alone.slopes]
    assert [slope.value for slope in spread.slopes] == pytest.approx([s.value for s in alone.slopes], abs=2e-3)
