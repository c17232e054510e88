"""The run of a budget: legal, within the budget, and near the best of all shapes."""

import math
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.configs import load as configs
from foretrain.configs.parametrization import BaseConfig, MupConfig
from foretrain.configs.schema import Config
from foretrain.parallel.layout import Layout, check
from foretrain.scaling.budget.caveats import caveats
from foretrain.scaling.budget.data import DataFacts
from foretrain.scaling.budget.overtraining import SHARES
from foretrain.scaling.budget.plan import Ask, BudgetPlan, make_plan
from foretrain.scaling.budget.shapes import MAX_ASPECT_CHANGE, ShapeRule, padded_vocabulary, shapes
from foretrain.scaling.budget.source import PUBLISHED, Source
from foretrain.scaling.budget.spend import Spend
from foretrain.trainer.model.resize import resized, width_step
from foretrain.trainer.model.size import ModelSize
from foretrain.trainer.model.table import check_sharding


@cache
def preset(name: str, *settings: str) -> Config:
    return configs.load(name, settings)


@cache
def source(name: str = "hoffmann") -> Source:
    return PUBLISHED[name]()


def no_data(config: Config) -> DataFacts:
    raise ValueError(f"{config.data.path} is not here")


def plan_of(config: Config, flops: float, law: Source | None = None, **asked: object) -> BudgetPlan:
    ask = Ask(Spend(flops), **asked)  # type: ignore[arg-type]
    return make_plan(ask, lambda more: config, law or source(), no_data)


@st.composite
def bases(draw: st.DrawFn) -> Config:
    """Configs of several proportions, parametrizations, batches and layouts."""
    config = preset("runs/dry_run", "parallel.dp=1", "parallel.tp=1", "parallel.pp=1", "model.vocab_size=512")
    head_dim, heads, group = (
        draw(st.sampled_from([8, 16])),
        draw(st.sampled_from([2, 4])),
        draw(st.sampled_from([1, 2])),
    )
    d_model = head_dim * heads
    model = replace(
        config.model,
        d_model=d_model,
        num_layers=draw(st.integers(1, 2)),
        num_heads=heads,
        num_kv_heads=heads // group,
        d_ff=draw(st.sampled_from([None, 3 * d_model])),
        seq_len=draw(st.sampled_from([16, 64])),
        vocab_size=draw(st.sampled_from([300, 2000])),
        tie_embeddings=draw(st.booleans()),
    )
    kind = draw(st.sampled_from(["standard", "mup", "completep"]))
    train = replace(config.train, global_batch_size=draw(st.sampled_from([4, 8, 32])), num_tokens=10**7)
    return replace(
        config,
        model=model,
        mup=MupConfig(kind, BaseConfig(d_model=d_model, num_layers=1)),  # type: ignore[arg-type]
        train=train,
        schedule=replace(config.schedule, warmup_tokens=draw(st.sampled_from([0, 10**5]))),
        parallel=replace(config.parallel, dp=draw(st.sampled_from([1, 2]))),
    )


@given(bases(), st.floats(12, 15), st.sampled_from([1, 2, 4]), st.sampled_from(["fixed", "sqrt", "linear"]))
@settings(max_examples=10, deadline=None)
def test_the_run_is_legal_within_the_budget_and_near_the_best_of_all_shapes(
    config: Config, log10_flops: float, tp: int, batch: str
) -> None:
    flops = 10**log10_flops
    try:
        plan = plan_of(config, flops, tp=tp, batch=batch)
    except ValueError as error:
        refusal = str(error)
    else:
        check_plan(plan, config, tp, batch)
        return
    assert "pay for no run" in refusal


def check_plan(plan: BudgetPlan, config: Config, tp: int, batch: str) -> None:
    """All that is promised about the plan of a budget."""
    flops = plan.ask.spend.flops
    rung, written = plan.run.rung, plan.config
    size = ModelSize.of(written.model)
    assert size == rung.size
    layout = Layout.from_config(written.parallel)
    check(layout, written.model, written.train)
    check_sharding(written.model, layout)
    assert layout.tp == tp
    # The config's own steps cost what is planned, and no more than the budget.
    step = written.train.global_batch_size * written.model.seq_len
    assert written.train.num_tokens == rung.num_steps * step
    assert flops * (1 - 1 / rung.num_steps) - step <= size.flops_per_token * written.train.num_tokens <= flops
    assert written.model.vocab_size == padded_vocabulary(config.model.vocab_size or 0, tp)
    shape, base = written.model.block_shape, config.model.block_shape
    assert shape.head_dim == base.head_dim
    assert shape.num_heads * base.num_kv_heads == base.num_heads * shape.num_kv_heads
    assert shape.d_ff * base.d_model == base.d_ff * shape.d_model
    share = config.schedule.warmup_tokens / config.train.num_tokens
    assert abs(written.schedule.warmup_tokens - share * rung.num_tokens) <= 1
    growth = math.sqrt(rung.global_batch_size / config.train.global_batch_size)
    assert written.optimizer.lr == pytest.approx(config.optimizer.lr * growth)
    best = brute_force(replace(config, model=replace(config.model, vocab_size=written.model.vocab_size)), plan)
    assert plan.run.loss <= 1.01 * best


def brute_force(config: Config, plan: BudgetPlan) -> float:
    """The least loss of all widths and depths that the rules allow, with tokens in fractions of steps."""
    rule, best = config.model, math.inf
    layout = Layout.from_config(plan.config.parallel)
    aspect = config.model.d_model / config.model.num_layers
    for number in range(1, 200):
        width = number * width_step(rule)
        if config.mup.parametrization == "mup":
            depths = [rule.num_layers]
        else:
            depths = [
                depth for depth in range(1, 200) if 1 / MAX_ASPECT_CHANGE <= width / depth / aspect <= MAX_ASPECT_CHANGE
            ]
        losses = []
        for depth in depths[:: max(1, len(depths) // 4)]:
            model = resized(rule, width, depth)
            if model.num_heads % layout.tp or (model.num_kv_heads or 1) % layout.tp:
                continue
            size = ModelSize.of(model)
            losses.append(plan.source.law.loss(size.num_params, plan.ask.spend.flops / size.flops_per_token))
        if losses and min(losses) > 1.05 * best:
            break
        best = min([best, *losses])
    return best


def test_all_depths_of_a_width_have_the_sizes_of_their_tables() -> None:
    config = preset("runs/gpt2_124m_a100")
    rule = ShapeRule(config.model, Layout(), config.train, 64.0)
    found = list(shapes(rule, 3e8))
    assert {(each.d_model, each.num_layers) for each in found} > {(64, 1), (768, 12), (768, 18), (1024, 16)}
    for each in found[::7]:
        assert each.size == ModelSize.of(rule.model_at(each.d_model, each.num_layers))


@pytest.mark.parametrize(
    ("vocab_size", "tp", "rows"),
    [(50257, 1, 50304), (50257, 8, 50304), (32000, 2, 32000), (258, 1, 258), (258, 4, 260)],
)
def test_a_vocabulary_is_padded_for_gpus_unless_that_adds_many_rows(vocab_size: int, tp: int, rows: int) -> None:
    assert padded_vocabulary(vocab_size, tp) == rows


def test_a_budget_of_5_76e23_flops_snaps_to_a_shape_near_the_optimum_of_hoffmann() -> None:
    plan = plan_of(preset("runs/llama_7b_a100"), 5.76e23)
    assert plan.optimum.num_params == pytest.approx(40e9, rel=0.05)
    assert plan.run.num_params == pytest.approx(plan.optimum.num_params, rel=0.15)
    assert plan.run.loss == pytest.approx(plan.optimum.loss, rel=1e-3)
    assert plan.run.rung.model.d_model / plan.run.rung.model.num_layers == pytest.approx(128, rel=0.1)


def test_under_mup_models_are_as_deep_as_the_config_s_and_else_as_its_aspect() -> None:
    config = preset("runs/mup_proxy", "model.vocab_size=300")
    assert plan_of(config, 1e15).run.rung.model.num_layers == config.model.num_layers
    deep = replace(config, mup=MupConfig("completep", BaseConfig(d_model=32, num_layers=2)))
    assert plan_of(deep, 1e15).run.rung.model.num_layers > config.model.num_layers
    plan = plan_of(config, 1e15, aspect=16.0)
    assert any("under mup.parametrization = mup a rate holds over widths" in line for line in caveats(plan))


def test_smaller_models_have_more_loss_for_the_same_compute_or_cost_more_for_the_same_loss() -> None:
    plan = plan_of(preset("runs/llama_7b_a100"), 1e22, source("refit"))
    assert len(plan.smaller) == len(SHARES)
    best, training = plan.run, 1.0
    for share, each in zip(SHARES, plan.smaller, strict=True):
        assert each.run.num_params == pytest.approx(share * best.num_params, rel=0.2)
        assert each.run.loss > best.loss and each.run.rung.flops <= 1e22
        if each.same_loss_tokens is None:  # the smallest: its parameters alone cost more than the loss leaves
            assert share == SHARES[-1] and each.same_loss_flops is None and each.pays_after_tokens is None
            assert plan.source.law.loss(each.run.num_params, 1e300) >= best.loss
            continue
        assert each.same_loss_flops is not None and each.pays_after_tokens is not None
        assert plan.source.law.loss(each.run.num_params, each.same_loss_tokens) == pytest.approx(best.loss)
        assert each.same_loss_flops / best.rung.flops > training
        training = each.same_loss_flops / best.rung.flops
        saved = each.pays_after_tokens * (best.rung.size.flops_per_token - each.run.rung.size.flops_per_token) / 3
        assert best.rung.flops + saved == pytest.approx(each.same_loss_flops)


def test_a_plan_says_how_far_the_law_is_extrapolated_and_that_its_data_are_others() -> None:
    lines = list(caveats(plan_of(preset("runs/llama_7b_a100"), 1e24)))
    assert any("times the compute of the largest run behind it" in line for line in lines)
    assert any("the loss is that of other data" in line for line in lines)
    assert any("how often the data are repeated is not known: data/corpus is not here" in line for line in lines)
    assert any("and under mup.parametrization = standard another width needs another" in line for line in lines)
    inside = list(caveats(plan_of(preset("runs/llama_7b_a100"), 1e21, batch="sqrt")))
    assert not any("extrapolated" in line for line in inside)


def test_a_plan_warns_of_a_run_that_is_smaller_than_all_runs_behind_the_law() -> None:
    config = preset("runs/dry_run", "parallel.dp=1", "parallel.tp=1", "parallel.pp=1", "model.vocab_size=512")
    assert any(
        "times the compute of the smallest run behind the law" in line for line in caveats(plan_of(config, 1e15))
    )


def test_a_plan_warns_of_repeated_data_and_refuses_a_vocabulary_that_is_too_small() -> None:
    config = preset("runs/llama_7b_a100")
    ask = Ask(Spend(1e21), batch="sqrt")
    plan = make_plan(ask, lambda more: config, source(), lambda config: DataFacts(32000, 7.5))
    assert any("the run reads its data 7.5 times" in line for line in caveats(plan))
    with pytest.raises(ValueError, match=r"model.vocab_size = 32000, and its data have 50257 tokens: set"):
        make_plan(ask, lambda more: config, source(), lambda config: DataFacts(50257, 1.0))


@pytest.mark.parametrize(
    ("overrides", "asked", "words"),
    [
        ((), {"flops": 1e15}, "1e+15 FLOPs pay for no run of 239 steps, not even of the narrowest model: raise the"),
        (("parallel.pp=2", "parallel.stage_layers=[16,16]"), {}, "parallel.stage_layers divides a known number of"),
        (("train.init_from=runs/other",), {}, "train.init_from names a model of another size: leave it out"),
        (("optimizer.kind=sgd",), {"batch": "sqrt"}, "--batch sqrt scales the learning rate"),
        (("parallel.dp=3",), {}, "train.global_batch_size"),
        (("model.vocab_size=null", "data.path=nowhere"), {}, "data.path = nowhere cannot be read from here: set"),
        ((), {"tp": 0}, "--tp 0: use 1 or more"),
        ((), {"tp": 1_000_000}, "tp * cp = 1,000,000 ranks share each layer, and plans are for 1,024 at most"),
        (("parallel.cp=4096",), {}, "ranks share each layer"),
        ((), {"aspect": -1.0}, "--aspect -1: give d_model / num_layers"),
        ((), {"aspect": 1e-9}, "--aspect 1e-09: give d_model / num_layers, such as 128; it may be 1 to 10000"),
        ((), {"coord_check": "x"}, "--coord-check judges the values of a sweep"),
    ],
)
def test_what_gives_no_run_is_refused_with_what_to_change(
    overrides: tuple[str, ...], asked: dict[str, object], words: str
) -> None:
    flops = float(asked.pop("flops", 1e22))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r".") as refused:
        plan_of(preset("runs/llama_7b_a100", *overrides), flops, **asked)  # type: ignore[arg-type]
    assert words in str(refused.value)


def test_the_brute_force_of_these_tests_would_find_a_run_that_is_far_from_the_best() -> None:
    """The planted error: a run of a quarter of the optimal parameters."""
    config = preset("runs/dry_run", "parallel.dp=1", "parallel.tp=1", "parallel.pp=1", "model.vocab_size=512")
    plan = plan_of(config, 1e15)
    assert plan.smaller[-1].run.loss > 1.01 * brute_force(config, plan)
