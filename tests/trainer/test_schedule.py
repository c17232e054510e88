"""The learning-rate schedule: its shape, its end, and what it refuses."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from foretrain.configs.optimization import ScheduleConfig
from foretrain.trainer.schedule import check, factor

KINDS = ("cosine", "linear", "constant")


@st.composite
def schedules(draw: st.DrawFn) -> tuple[ScheduleConfig, int]:
    budget_tokens = draw(st.integers(1, 10**13))
    kind = draw(st.sampled_from(KINDS))
    warmup_tokens = draw(st.integers(0, budget_tokens - (kind != "constant")))
    cfg = ScheduleConfig(
        kind=kind,  # type: ignore[arg-type]
        warmup_tokens=warmup_tokens,
        decay_tokens=draw(st.integers(0, budget_tokens - warmup_tokens)),
        min_factor=draw(st.floats(0, 1)),
    )
    check(cfg, budget_tokens)
    return cfg, budget_tokens


@given(schedules(), st.data())
def test_the_factor_is_between_0_and_1_and_above_min_factor_after_warm_up(
    schedule: tuple[ScheduleConfig, int], data: st.DataObject
) -> None:
    cfg, budget_tokens = schedule
    before = data.draw(st.integers(0, budget_tokens - 1))
    step = data.draw(st.integers(1, budget_tokens))
    value = factor(before, step, budget_tokens, cfg)
    assert 0 < value <= 1 or (value == 0 and cfg.min_factor == 0)
    if before + step >= cfg.warmup_tokens:
        assert value >= cfg.min_factor - 1e-12


@given(schedules(), st.data())
def test_the_factor_rises_during_warm_up_and_never_after(
    schedule: tuple[ScheduleConfig, int], data: st.DataObject
) -> None:
    cfg, budget_tokens = schedule
    ends = sorted(data.draw(st.lists(st.integers(1, budget_tokens), min_size=2, max_size=2)))
    first, second = (factor(end - 1, 1, budget_tokens, cfg) for end in ends)
    if ends[1] <= cfg.warmup_tokens:
        assert first <= second
    elif ends[0] >= cfg.warmup_tokens:
        assert first >= second


@given(schedules(), st.data())
def test_one_more_token_changes_the_factor_by_no_more_than_the_steepest_slope(
    schedule: tuple[ScheduleConfig, int], data: st.DataObject
) -> None:
    cfg, budget_tokens = schedule
    assume(budget_tokens >= 2)
    end = data.draw(st.integers(1, budget_tokens - 1))
    step = abs(factor(end, 1, budget_tokens, cfg) - factor(end - 1, 1, budget_tokens, cfg))
    fall_tokens = cfg.decay_tokens if cfg.kind == "constant" else budget_tokens - cfg.warmup_tokens
    slopes = [1 / cfg.warmup_tokens] if cfg.warmup_tokens else []
    slopes += [math.pi / 2 / fall_tokens] if fall_tokens else []
    assert step <= max(slopes, default=0) + 1e-12


@given(schedules())
def test_the_step_that_ends_at_warmup_tokens_has_factor_1(schedule: tuple[ScheduleConfig, int]) -> None:
    cfg, budget_tokens = schedule
    assume(cfg.warmup_tokens > 0)
    assert factor(0, cfg.warmup_tokens, budget_tokens, cfg) == 1


@given(schedules(), st.integers(0, 10**6))
def test_the_last_step_has_min_factor_even_if_it_reaches_past_the_budget(
    schedule: tuple[ScheduleConfig, int], excess_tokens: int
) -> None:
    cfg, budget_tokens = schedule
    expected = 1.0 if cfg.kind == "constant" and cfg.decay_tokens == 0 else cfg.min_factor
    assert factor(budget_tokens - 1, 1 + excess_tokens, budget_tokens, cfg) == expected


@given(schedules(), st.data())
def test_only_the_end_of_a_step_counts_not_how_tokens_are_cut_into_steps(
    schedule: tuple[ScheduleConfig, int], data: st.DataObject
) -> None:
    cfg, budget_tokens = schedule
    end = data.draw(st.integers(1, budget_tokens))
    before = data.draw(st.integers(0, end - 1))
    assert factor(before, end - before, budget_tokens, cfg) == factor(0, end, budget_tokens, cfg)


@pytest.mark.parametrize(("kind", "halfway"), [("cosine", 0.55), ("linear", 0.55), ("constant", 1.0)])
def test_halfway_from_warm_up_to_the_end(kind: str, halfway: float) -> None:
    cfg = ScheduleConfig(kind=kind, warmup_tokens=100, decay_tokens=100, min_factor=0.1)  # type: ignore[arg-type]
    assert factor(0, 550, 1000, cfg) == pytest.approx(halfway)
    assert factor(0, 50, 1000, cfg) == pytest.approx(0.5)


def test_cosine_falls_slower_than_linear_at_first() -> None:
    cosine, linear = (factor(0, 250, 1000, ScheduleConfig(kind=kind, min_factor=0)) for kind in ("cosine", "linear"))
    assert cosine == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert linear == pytest.approx(0.75)


def test_constant_falls_over_its_last_tokens_only() -> None:
    cfg = ScheduleConfig(kind="constant", decay_tokens=200, min_factor=0.5)
    assert [factor(0, end, 1000, cfg) for end in (1, 800, 900, 1000)] == pytest.approx([1, 1, 0.75, 0.5])


@pytest.mark.parametrize("kind", KINDS)
def test_a_warm_up_longer_than_the_budget_is_refused_by_name(kind: str) -> None:
    cfg = ScheduleConfig(kind=kind, warmup_tokens=1001)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"schedule\.warmup_tokens = 1001 .* train\.num_tokens = 1000"):
        check(cfg, 1000)


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_a_warm_up_as_long_as_the_budget_is_refused_because_the_rate_could_not_fall(kind: str) -> None:
    cfg = ScheduleConfig(kind=kind, warmup_tokens=1000)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"warmup_tokens = 1000 is all of train\.num_tokens.*min_factor = 0\.1"):
        check(cfg, 1000)
    check(cfg, 1001)
    check(ScheduleConfig(kind="constant", warmup_tokens=1000), 1000)
    check(ScheduleConfig(kind=kind, warmup_tokens=1000, min_factor=1.0), 1000)  # type: ignore[arg-type]


def test_warm_up_and_decay_that_overlap_are_refused_by_name() -> None:
    cfg = ScheduleConfig(kind="constant", warmup_tokens=600, decay_tokens=401)
    with pytest.raises(ValueError, match=r"schedule\.warmup_tokens.*schedule\.decay_tokens.*train\.num_tokens = 1000"):
        check(cfg, 1000)
    check(cfg, 1001)
