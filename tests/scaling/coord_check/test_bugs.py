"""A coordinate check passes for what is sound and can fail: bugs of a parametrization, planted one by one, are seen."""

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


def seen(plan: CoordCheckPlan, measure: Callable | None = None) -> CoordCheckVerdict:
    target = MEASURE if measure is None else f"{measure.__module__}:{measure.__name__}"
    return check(plan, progress_of(plan, Console(quiet=True)), target)[1]


@pytest.mark.parametrize("traits", [[], GPT2, GROUPED], ids=["llama", "gpt2", "grouped"])
def test_mup_passes_over_widths(traits: list[str]) -> None:
    assert seen(over_widths(*traits)).problems == ()


@pytest.mark.parametrize("traits", [[], GPT2], ids=["llama", "gpt2"])
def test_completep_passes_over_depths(traits: list[str]) -> None:
    assert seen(over_depths(*traits)).problems == ()


def test_completep_passes_over_widths() -> None:
    assert seen(over_widths("mup.parametrization=completep", "mup.base.num_layers=1")).problems == ()


def test_the_standard_parametrization_fails_over_widths() -> None:
    assert not seen(over_widths("mup.parametrization=standard")).passed


def test_mup_of_widths_alone_fails_over_depths() -> None:
    assert not seen(over_depths("mup.parametrization=mup")).passed


@pytest.mark.parametrize(
    ("bug", "blamed"),
    [
        (bugs.hidden_lr_not_scaled, "blocks.0.attn.q changes as width^"),
        (bugs.hidden_lr_by_the_root, "blocks.0.attn.q changes as width^"),
        (bugs.logits_not_multiplied, "logits grows as width^"),
        (bugs.logits_multiplied_twice, "logits changes as width^-"),
        (bugs.hidden_init_not_scaled, "blocks.0.attn.q grows as width^"),
        (bugs.one_init_not_scaled, "blocks.1.mlp.down grows as width^"),
        (bugs.embedding_lr_scaled, "embed changes as width^-"),
        (bugs.gain_lr_scaled, "blocks.0.attn_norm.weight changes as width^-"),
        (bugs.head_lr_by_the_root, "head.weight changes as width^-0.5"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_planted_bug_is_seen_and_the_module_named(bug: Callable, blamed: str) -> None:
    verdict = seen(over_widths(), bug)
    assert not verdict.passed
    assert verdict.problems[0].startswith(f"look here first: {blamed}"), verdict.problems


LARGE_EPS = ["optimizer.eps=0.01", "optimizer.clip_norm=0"]


def test_an_eps_that_is_not_scaled_is_seen_where_eps_matters() -> None:
    assert seen(over_widths(*LARGE_EPS)).problems == ()
    assert not seen(over_widths(*LARGE_EPS), bugs.eps_not_scaled).passed


def test_a_ratio_of_another_axis_is_seen_where_axes_widen_differently() -> None:
    sound = over_widths("mup.base.d_ff=192")
    plan = OtherProportions(**vars(sound))
    assert seen(plan).problems == ()
    verdict = seen(plan, bugs.ratio_of_another_axis)
    assert "blocks.0.mlp.down" in verdict.problems[0]


@pytest.mark.parametrize(
    "bug",
    [bugs.residual_multiplier_missing, bugs.residual_multiplier_by_the_root, bugs.depth_counted_twice],
    ids=lambda bug: bug.__name__,
)
def test_a_planted_bug_of_depth_is_seen(bug: Callable) -> None:
    assert not seen(over_depths(), bug).passed


def test_what_the_help_says_is_not_seen_is_not() -> None:
    sound = over_widths("mup.base.num_heads=4", "mup.base.head_dim=16")
    assert seen(WiderHeads(**vars(sound)), bugs.attention_by_the_root).passed


def first_steps(layout: Layout | None = None) -> CoordCheckVerdict:
    return seen(replace(over_widths(layout=layout), num_steps=1, ladders=NARROW))


NARROW = (Ladder("width", (Rung(64, 2), Rung(128, 2))),)


@pytest.fixture(scope="module")
def alone() -> CoordCheckVerdict:
    return first_steps()


@pytest.mark.parametrize("layout", [Layout(tp=2, sp=True), Layout(pp=2), Layout(dp=2, zero_stage=3)], ids=str)
def test_slopes_are_the_same_under_every_layout(layout: Layout, alone: CoordCheckVerdict) -> None:
    spread = first_steps(layout)
    assert [slope.module for slope in spread.slopes] == [slope.module for slope in alone.slopes]
    assert [slope.value for slope in spread.slopes] == pytest.approx([s.value for s in alone.slopes], abs=2e-3)
