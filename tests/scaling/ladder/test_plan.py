"""What a ladder trains: within the budget, legal, alike in all that its rules fix. And what is refused."""

import math
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from foretrain.configs import load as configs
from foretrain.configs.model import ModelConfig
from foretrain.configs.optimization import ScheduleConfig
from foretrain.configs.parametrization import BaseConfig, MupConfig
from foretrain.configs.schema import Config
from foretrain.scaling.ladder.plan import Ask, LadderPlan, make_plan, rungs_of
from foretrain.scaling.ladder.rungs import MIN_STEPS, Rules, choose, default_ratio, family, least_flops, target_rung
from foretrain.scaling.transfer.sweep_folder import RATE
from foretrain.scaling.trials.trial import Corpus
from foretrain.trainer.model.size import ModelSize
from tests.scaling.transfer.builder import Folder, target

VOCAB_SIZE = 512


def corpus_of(config: Config) -> Corpus:
    return Corpus(VOCAB_SIZE, {"": "tokens"}, config.train.num_tokens / 1e6)


def plan_of(config: Config, **asked: object) -> LadderPlan:
    return make_plan(Ask(**asked), lambda more: config, corpus_of)  # type: ignore[arg-type]


@cache
def preset() -> Config:
    return configs.load("runs/mup_proxy")


@st.composite
def targets(draw: st.DrawFn) -> Config:
    """Targets of all proportions: heads, groups of heads, feed-forward widths, depths, batches, horizons, schedules."""
    head_dim, groups, kv = draw(st.sampled_from([2, 4, 16])), draw(st.sampled_from([1, 2])), draw(st.integers(3, 16))
    d_model = head_dim * groups * kv
    model = ModelConfig(
        num_layers=draw(st.integers(1, 6)),
        d_model=d_model,
        num_heads=groups * kv,
        num_kv_heads=kv if groups > 1 else None,
        head_dim=draw(st.sampled_from([None, 2 * head_dim])),
        d_ff=draw(st.sampled_from([None, 3 * d_model, 3 * d_model // 2])),
        seq_len=draw(st.sampled_from([8, 32])),
        tie_embeddings=draw(st.booleans()),
    )
    kind = draw(st.sampled_from(["mup", "completep"]))
    num_tokens = int(
        draw(st.sampled_from([0.5, 20, 50, 400])) * ModelSize.of(replace(model, vocab_size=VOCAB_SIZE)).num_params
    )
    share = draw(st.sampled_from([0.0, 0.02, 0.1]))
    schedule = draw(st.sampled_from(["linear", "cosine", "constant"]))
    decay_tokens = num_tokens - int(share * num_tokens) if schedule == "constant" else 0
    samples = draw(st.sampled_from([1, 2, 3, 8, 30]))
    old = preset()
    return replace(
        old,
        model=model,
        mup=MupConfig(kind, BaseConfig(d_model=head_dim * groups, num_layers=1)),  # type: ignore[arg-type]
        schedule=ScheduleConfig(schedule, int(share * num_tokens), decay_tokens, 0.0),  # type: ignore[arg-type]
        train=replace(old.train, num_tokens=num_tokens, global_batch_size=samples, micro_batch_size=8),
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[Config, dict]:
    """A target, and what is asked for: often a ladder that is possible."""
    config = draw(targets())
    of_target = target_rung(replace(config, model=replace(config.model, vocab_size=VOCAB_SIZE))).flops
    return config, {
        "budget_flops": of_target * 10 ** draw(st.floats(-2.5, 1)),
        "num_points": draw(st.sampled_from([2, 3, 4, 6])),
        "num_seeds": draw(st.integers(1, 3)),
        "tokens_per_param": draw(st.sampled_from([None, None, 10.0, 40.0])),
        "batch": draw(st.sampled_from(["fixed", "sqrt", "linear"])),
        "ratio": draw(st.sampled_from([None, 1.5, 8.0])),
    }


@given(cases())
@settings(max_examples=30, deadline=None)
def test_every_ladder_is_within_its_budget_legal_and_alike_in_what_its_rules_fix(case: tuple[Config, dict]) -> None:
    config, asked = case
    try:
        plan = plan_of(config, **asked)
    except ValueError as error:
        refusal = str(error)
    else:
        check(plan, config, asked)
        return
    assert refusal.startswith(("--budget", "--points")), refusal


def check(plan: LadderPlan, config: Config, asked: dict) -> None:
    """All that is promised about the plan of a ladder to a config."""
    assert plan.flops == sum(rung.flops for rung in plan.rungs) * asked["num_seeds"] <= asked["budget_flops"]
    assert len(plan.rungs) == asked["num_points"]
    for small, large in pairwise([*plan.rungs, plan.goal]):
        assert small.size.num_params < large.size.num_params
        assert small.num_tokens < large.num_tokens and small.flops < large.flops
        assert small.model.d_model < large.model.d_model
    goal = plan.target.model.block_shape
    for rung, trials in zip(plan.rungs, plan.trials, strict=True):
        shape = rung.model.block_shape
        assert shape.head_dim == goal.head_dim
        assert shape.num_heads * goal.num_kv_heads == goal.num_heads * shape.num_kv_heads
        assert shape.num_heads * goal.d_model == goal.num_heads * shape.d_model
        assert shape.d_ff * goal.d_model == goal.d_ff * shape.d_model
        tokens_per_step = rung.global_batch_size * rung.model.seq_len
        assert abs(rung.num_tokens - plan.rules.tokens_per_param * rung.size.num_params) <= tokens_per_step / 2
        assert rung.num_tokens == rung.num_steps * tokens_per_step
        assert rung.num_steps >= MIN_STEPS
        if asked["batch"] == "fixed":
            assert (rung.global_batch_size, rung.lr) == (config.train.global_batch_size, config.optimizer.lr)
        elif asked["batch"] == "linear":
            exact = config.train.global_batch_size * rung.num_tokens / config.train.num_tokens
            assert abs(rung.global_batch_size - exact) <= max(1, exact / 50)
        growth = math.sqrt(rung.global_batch_size / config.train.global_batch_size)
        assert rung.lr == pytest.approx(config.optimizer.lr * growth)
        assert [trial.seed for trial in trials] == list(range(asked["num_seeds"]))
        for trial in trials:
            got = trial.config
            assert replace(got.model, vocab_size=VOCAB_SIZE) == rung.model
            assert got.train.num_tokens == rung.num_tokens == trial.num_tokens
            assert (got.train.global_batch_size, got.optimizer.lr) == (rung.global_batch_size, rung.lr)
            assert got.data.seed == got.train.seed == trial.seed
            assert got.schedule.kind == config.schedule.kind
            assert not trial.is_rung
            for name in ("warmup_tokens", "decay_tokens"):
                share = getattr(config.schedule, name) / config.train.num_tokens
                assert abs(getattr(got.schedule, name) - share * rung.num_tokens) <= 2
            assert config.schedule.warmup_tokens == 0 or got.schedule.warmup_tokens * 1.01 >= tokens_per_step
    assert len({trial.key for trial in plan.all_trials}) == len(plan.all_trials)


@given(cases())
@settings(max_examples=10, deadline=None)
def test_the_least_budget_that_a_refusal_names_is_enough_and_less_is_not(case: tuple[Config, dict]) -> None:
    config, asked = case
    config = replace(config, model=replace(config.model, vocab_size=VOCAB_SIZE))
    ask = Ask(**{**asked, "budget_flops": 1.0})
    rules = Rules(20.0, ask.batch)
    try:
        rungs_of(ask, config, rules, 4.0)
        raise AssertionError("a budget of 1 FLOP was enough")
    except ValueError as error:
        assume("is too small" in str(error))
        named = float(str(error).split("take ")[1].split(" ")[0])
    assert len(rungs_of(replace(ask, budget_flops=named), config, rules, 4.0)) == ask.num_points
    with pytest.raises(ValueError, match="is too small"):
        rungs_of(replace(ask, budget_flops=named * 0.98), config, rules, 4.0)


@given(
    st.lists(st.integers(1, 10**15), min_size=2, max_size=40, unique=True).map(sorted),
    st.integers(2, 6),
    st.floats(1.1, 10),
    st.floats(1, 1e17),
)
def test_a_larger_top_rung_would_exceed_the_budget(
    flops: list[int], num_points: int, ratio: float, budget: float
) -> None:
    assume(len(flops) >= num_points)
    places = choose(flops, num_points, ratio, budget)
    assert bool(places) == (least_flops(flops, num_points) <= budget)
    if not places:
        return
    assert len(places) == num_points and places == sorted(set(places))
    assert sum(flops[place] for place in places) <= budget
    for top in range(places[-1] + 1, len(flops)):
        more = choose(flops[: top + 1], num_points, ratio, math.inf)
        assert more[-1] == top and sum(flops[place] for place in more) > budget


def test_costs_are_nearest_to_a_geometric_series() -> None:
    dense = [round(1.05**place) for place in range(100, 600)]
    places = choose(dense, 5, 4.0, 1e12)
    assert [dense[large] / dense[small] for small, large in pairwise(places)] == pytest.approx([4.0] * 4, rel=0.05)
    total = sum(dense[place] for place in places)
    assert 0.93e12 < total <= 1e12
    few = choose(dense[:40], 4, 10.0, math.inf)  # their costs span 6.7, so a ratio of 10 is impossible
    assert few[0] == 0 and few[-1] == 39
    assert [dense[large] / dense[small] for small, large in pairwise(few)] == pytest.approx([1.9] * 3, rel=0.06)


def test_the_default_ratio_is_4_until_the_ladder_would_span_more_than_100() -> None:
    assert [default_ratio(points) for points in (2, 3, 4)] == [4.0, 4.0, 4.0]
    assert default_ratio(6) ** 5 == pytest.approx(100)


def test_depth_is_in_proportion_under_completep_and_the_target_s_otherwise() -> None:
    config = replace(preset(), model=replace(preset().model, d_model=256, num_heads=16, num_layers=8, vocab_size=300))
    config = replace(config, schedule=ScheduleConfig(), train=replace(config.train, num_tokens=10**9))
    deep = replace(config, mup=MupConfig("completep", BaseConfig(d_model=32, num_layers=1)))
    rules = Rules(20.0)
    assert {rung.model.num_layers for rung in family(config, rules).rungs} == {8}
    shapes = {rung.model.d_model: rung.model.num_layers for rung in family(deep, rules).rungs}
    assert (shapes[32], shapes[64], shapes[176]) == (1, 2, 6)


def test_a_rung_has_a_step_of_warm_up_if_the_target_has_one() -> None:
    config = replace(preset(), model=replace(preset().model, d_model=512, num_heads=32, num_layers=2, vocab_size=300))
    config = replace(config, train=replace(config.train, num_tokens=10**9))
    rare = replace(config, schedule=replace(config.schedule, warmup_tokens=2 * 10**6))  # a step in 500
    none = replace(config, schedule=replace(config.schedule, warmup_tokens=0))
    assert min(rung.num_steps for rung in family(none, Rules(2.0)).rungs) < 500
    assert min(rung.num_steps for rung in family(rare, Rules(2.0)).rungs) >= 500


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep, and target.yaml, whose values it supports."""
    folder = tmp_path_factory.mktemp("swept")
    Folder().write(folder / "sweep")
    target(folder / "target.yaml")
    return folder


def of_sweep(swept: Path, *settings: str, **asked: object) -> LadderPlan:
    ask = Ask(**{"budget_flops": 1e18, "num_points": 3, "sweep": swept / "sweep", **asked})  # type: ignore[arg-type]
    return make_plan(ask, lambda more: configs.load(swept / "target.yaml", [*settings, *more]), corpus_of)


def test_rungs_have_the_rate_that_transfer_writes_with_its_evidence(swept: Path) -> None:
    plan = of_sweep(swept)
    assert plan.objections == ()
    assert plan.transfer is not None
    lr = plan.transfer.study.values[RATE]
    assert math.log2(lr) == pytest.approx(-5.2, abs=0.05)
    assert {trial.config.optimizer.lr for trial in plan.all_trials} == {lr} == {plan.target.optimizer.lr}
    assert "the optimum at the largest proxy" in plan.target.mup.evidence[0]


def test_the_rate_of_a_sweep_is_scaled_from_its_own_batch(swept: Path) -> None:
    """A sweep with 16 samples says nothing about 256, except by the rule."""
    batch = "train.global_batch_size=256"
    assert any("a step of the target is" in line for line in of_sweep(swept, batch, batch="fixed").objections)
    for rule, power in (("sqrt", 0.5), ("linear", 1.0)):
        plan = of_sweep(swept, batch, batch=rule)
        assert plan.objections == ()
        assert plan.transfer is not None
        lr = plan.transfer.study.values[RATE]
        assert plan.target.optimizer.lr == pytest.approx(4 * lr)
        for rung in plan.rungs:
            assert rung.lr == pytest.approx(lr * math.sqrt(rung.global_batch_size / 16))
            growth = (rung.num_tokens / plan.goal.num_tokens) ** power
            assert rung.global_batch_size / 256 == pytest.approx(growth, rel=0.1)


def test_the_transfer_is_judged_at_the_tokens_per_parameter_of_the_ladder(swept: Path) -> None:
    longer = "train.num_tokens=1e9", "schedule.warmup_tokens=1e8"
    assert any("tokens per parameter" in line for line in of_sweep(swept, *longer).objections)
    assert of_sweep(swept, *longer, tokens_per_param=20.0).objections == ()
