"""What may be wrong with a plan: extrapolation, repeated data, untuned rates, a law of other data. Pure."""

import math
from collections.abc import Iterator

from foretrain.scaling.budget.plan import BudgetPlan
from foretrain.scaling.budget.source import OTHER_DATA
from foretrain.scaling.ladder.rungs import COST_OF_EPOCHS, MAX_EPOCHS
from foretrain.scaling.prediction.predict import Target, objections

MAX_OFF_OPTIMUM = 1.3
"""The largest factor between the parameters of the run and the optimal number that needs no word."""
MAX_LOSS_OF_SHAPE = 1e-3
"""The largest share of the loss that the best legal shape may cost without a word."""


def caveats(plan: BudgetPlan) -> Iterator[str]:
    """What may be wrong, each with what to do."""
    yield from _law(plan)
    yield from _shape(plan)
    yield from _data(plan)
    yield from _rate(plan)


def _law(plan: BudgetPlan) -> Iterator[str]:
    source, flops = plan.source, plan.run.rung.flops
    if source.record is None:
        yield OTHER_DATA
        ratio = flops / source.compute_range[1]
        if ratio > 1:
            yield f"the law is extrapolated: the run has {ratio:.3g} times the compute of the largest run behind it"
        if (ratio := flops / source.compute_range[0]) < 1:
            yield (
                f"the run has {ratio:.3g} times the compute of the smallest run behind the law, which is not known to "
                "hold for such small runs: fit runs of your own"
            )
    else:
        assert source.evidence is not None
        yield from objections(source.record, source.evidence, _target(plan))
    low, high = source.tokens_per_param_range
    wanted = plan.run.rung.num_tokens / plan.run.num_params
    if not low <= wanted <= high:
        yield (
            f"the run has {wanted:.3g} tokens per parameter, and the runs behind the law have {low:.3g} to {high:.3g}: "
            "add runs that train for as long, for their size"
        )
    for name, words in (("num_params", "parameters"), ("loss", "loss")):
        if any(each.low <= 0 or not math.isfinite(each.high) for each in plan.optimum.intervals.get(name, ())):
            yield (
                f"the runs behind the law do not bound the optimal {words}: add runs whose tokens per parameter differ"
            )


def _target(plan: BudgetPlan) -> Target:
    """The run, as the objections of `foretrain predict` see it; what the data decide is compared by `predict`."""
    config, rung = plan.config, plan.run.rung
    same = {"parametrization": config.mup.parametrization, "seq_len": config.model.seq_len}
    return Target(float(plan.run.num_params), float(rung.num_tokens), float(rung.flops), same, {})


def _shape(plan: BudgetPlan) -> Iterator[str]:
    factor = plan.run.num_params / plan.optimum.num_params
    lost = plan.run.loss / plan.optimum.loss - 1
    if max(factor, 1 / factor) > MAX_OFF_OPTIMUM and lost > MAX_LOSS_OF_SHAPE:
        yield (
            f"no legal shape is near the optimum: this one has {factor:.3g} times the optimal parameters, and "
            f"{lost:.2%} more loss; use a smaller --tp, or a config with smaller heads or fewer query heads for each "
            "key-value head"
        )


def _data(plan: BudgetPlan) -> Iterator[str]:
    if plan.data is None:
        yield f"how often the data are repeated is not known: {plan.why_no_data}"
    elif plan.data.num_epochs > MAX_EPOCHS:
        yield (
            f"the run reads its data {plan.data.num_epochs:.1f} times: {COST_OF_EPOCHS}; use more data, or a smaller "
            "budget"
        )


def _rate(plan: BudgetPlan) -> Iterator[str]:
    kind, base, model = plan.config.mup.parametrization, plan.base.model, plan.run.rung.model
    if kind == "standard" and (model.d_model, model.num_layers) != (base.d_model, base.num_layers):
        yield (
            f"lr = {plan.config.optimizer.lr:.4g} belongs to d_model = {base.d_model}, num_layers = {base.num_layers}, "
            "and under mup.parametrization = standard another width needs another: tune proxies under mup or completep "
            "with `foretrain sweep`, and give --sweep"
        )
    elif kind == "mup" and model.num_layers != base.num_layers:
        yield (
            f"under mup.parametrization = mup a rate holds over widths, and the depth is {model.num_layers} instead of "
            f"{base.num_layers}: use completep, or leave --aspect out"
        )
