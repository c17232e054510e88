"""How a coordinate check judges its measurements: exponents, what passes, and the words about what fails."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain.configs.load import load
from foretrain.scaling.coord_check.judge import TOLERANCES, fit, modules_of, slopes_of
from foretrain.scaling.coord_check.plan import CoordCheckPlan, Ladder, Rung, make_plan
from foretrain.scaling.coord_check.verdict import judge

WIDTHS, DEPTHS = (64, 128, 256), (2, 4, 8)
PLAN = make_plan(load("runs/dry_run", ["mup.parametrization=mup", "mup.base.d_model=64"]), widths=WIDTHS, num_seeds=2)
OVER_WIDTHS = PLAN.ladders[0]
OVER_DEPTHS = Ladder("depth", tuple(Rung(64, depth) for depth in DEPTHS))
IN_A_BLOCK = ("attn.q", "attn.out", "mlp.up", "mlp.down")


@dataclass
class Shown:
    """What a model of a rung shows where every statistic but those in `powers` is level."""

    rung: Rung
    powers: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """By kind and module (as a ladder names it), the exponent over width * depth."""
    factor: float = 1.0
    losses: Sequence[float] = (5.0,) * 9

    @cached_property
    def size(self) -> dict[str, list[float]]:
        return self._statistic("size")

    @cached_property
    def change(self) -> dict[str, list[float]]:
        return {name: [0.0, *values[1:]] for name, values in self._statistic("change").items()}

    def _statistic(self, kind: str) -> dict[str, list[float]]:
        blocks = [f"blocks.{layer}" for layer in range(self.rung.depth)]
        inside = [f"{block}.{part}" for block in blocks for part in IN_A_BLOCK]
        names = sorted(["embed", "final_norm", "logits", *blocks, *inside])
        return {name: [self.factor * self._growth(kind, name) * (1 + step) for step in range(9)] for name in names}

    def _growth(self, kind: str, name: str) -> float:
        last = name.replace(f"blocks.{self.rung.depth - 1}", "blocks.last")
        power = self.powers.get((kind, name), self.powers.get((kind, last), 0.0))
        return float((self.rung.width * self.rung.depth) ** power)


def shown(ladder: Ladder, powers: Mapping[tuple[str, str], float] | None = None) -> dict[Rung, list[Shown]]:
    return {rung: [Shown(rung, powers or {}), Shown(rung, powers or {}, factor=3.0)] for rung in ladder.rungs}


def over(ladder: Ladder) -> CoordCheckPlan:
    return replace(PLAN, ladders=(ladder,))


POWERS = st.floats(-3, 3)


@given(POWERS, st.floats(1e-6, 1e6), st.lists(st.integers(1, 10**5), min_size=2, max_size=6, unique=True))
def test_the_exponent_of_a_power_law_is_recovered(power: float, factor: float, sizes: list[int]) -> None:
    assert fit(sizes, [factor * size**power for size in sizes]) == pytest.approx(power, abs=1e-9)


@given(st.lists(st.floats(0.1, 10), min_size=3, max_size=3), st.floats(0.01, 100))
def test_a_slope_does_not_depend_on_units(values: list[float], unit: float) -> None:
    assert fit(WIDTHS, [unit * value for value in values]) == pytest.approx(fit(WIDTHS, values), abs=1e-9)


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_values_that_are_not_positive_have_no_slope(bad: float) -> None:
    assert fit(WIDTHS, [1.0, bad, 1.0]) is None


@pytest.mark.parametrize("ladder", [OVER_WIDTHS, OVER_DEPTHS], ids=["width", "depth"])
@given(POWERS, st.sampled_from(["size", "change"]))
def test_a_check_passes_iff_the_exponent_is_within_tolerance(ladder: Ladder, power: float, kind: str) -> None:
    verdict = judge(over(ladder), shown(ladder, {(kind, "blocks.last.mlp.down"): power}))
    is_level = abs(power) <= TOLERANCES[ladder.axis]
    if abs(abs(power) - TOLERANCES[ladder.axis]) > 1e-9:
        assert verdict.passed == is_level
    if not is_level:
        assert (
            f"mlp.down {'changes' if kind == 'change' else 'grows' if power > 0 else 'shrinks'}" in verdict.problems[0]
        )


def test_logits_may_shrink_only_as_a_random_head_does() -> None:
    for powers, passes in (
        ({("size", "logits"): -0.5}, True),
        ({("size", "logits"): 0.5}, False),
        ({("change", "logits"): -0.5}, False),
    ):
        assert judge(PLAN, shown(OVER_WIDTHS, powers)).passed == passes, powers


def test_over_depths_the_first_and_the_last_block_stand_for_all() -> None:
    modules = modules_of(OVER_DEPTHS, shown(OVER_DEPTHS), PLAN.config.model)
    first = [f"blocks.0.{part}" for part in IN_A_BLOCK]
    last = [f"blocks.last.{part}" for part in IN_A_BLOCK]
    assert modules == ["embed", *first, *last, "blocks.last", "final_norm", "logits"]


def test_modules_come_in_the_order_of_the_data_however_many_blocks_there_are() -> None:
    ladder = Ladder("width", (Rung(64, 11), Rung(128, 11)))
    modules = modules_of(ladder, shown(ladder), PLAN.config.model)
    assert [name for name in modules if name.count(".") == 1] == [f"blocks.{layer}" for layer in range(11)]
    assert modules[0] == "embed" and modules[-2:] == ["final_norm", "logits"]


def test_seeds_are_averaged_before_the_fit() -> None:
    measured = shown(OVER_WIDTHS)
    measured[OVER_WIDTHS.rungs[0]][1].factor = 1.0  # means 1, 2, 2 on the three rungs
    slopes = {
        (slope.module, slope.kind): slope.value for slope in slopes_of(OVER_WIDTHS, measured, [1], PLAN.config.model)
    }
    assert slopes["embed", "size"] == pytest.approx(0.5)


def test_the_first_module_that_fails_is_named_first_and_the_steepest_follow() -> None:
    powers = {("change", "blocks.0.attn.q"): 0.5, ("change", "blocks.1.mlp.down"): 1.0, ("change", "logits"): 0.3}
    lines = judge(PLAN, shown(OVER_WIDTHS, powers)).problems
    assert lines[0].startswith(
        "look here first: blocks.0.attn.q changes as width^0.50 at step 1: its update is too large"
    )
    assert lines[1].startswith("blocks.1.mlp.down changes as width^1.00 at step 1")
    assert "is what goes into the head multiplied by 1/m" in lines[2]


def test_no_more_than_five_modules_are_named() -> None:
    powers = {("size", f"blocks.{layer}.{part}"): 1.0 for layer in range(2) for part in IN_A_BLOCK}
    lines = judge(PLAN, shown(OVER_WIDTHS, powers)).problems
    assert len(lines) == 6 and lines[-1] == "and 3 other modules are too steep"


def test_a_model_that_diverges_is_named() -> None:
    measured = shown(OVER_WIDTHS)
    measured[OVER_WIDTHS.rungs[2]][1].losses = [5.0, 7.0, float("nan"), float("nan")]
    (line,) = judge(PLAN, measured).problems
    assert line == "width 256, 2 blocks, seed 1: diverged: the loss is nan in step 3: try a smaller --lr"


def test_a_statistic_that_is_zero_is_named() -> None:
    measured = shown(OVER_WIDTHS, {("change", "embed"): -float("inf")})
    verdict = judge(PLAN, measured)
    assert "width 64, 2 blocks, seed 0: embed has a change of 0 after step 1" in verdict.problems
    assert verdict.worst is not None and verdict.worst.value is None


def test_a_ladder_that_was_not_measured_is_a_failure() -> None:
    verdict = judge(PLAN, {}, ["width 64, 2 blocks: rank 0 was killed by SIGKILL"])
    assert not verdict.passed and verdict.slopes == () and verdict.worst is None
