"""The page of a budget, and the same numbers as JSON."""

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from foretrain.progress import print_line
from foretrain.scaling.budget.caveats import caveats
from foretrain.scaling.budget.choice import Run
from foretrain.scaling.budget.overtraining import Smaller
from foretrain.scaling.budget.plan import BudgetPlan
from foretrain.scaling.console import table_of_numbers
from foretrain.scaling.ladder.rungs import BATCH_RULES, MAX_EPOCHS
from foretrain.scaling.laws.evidence import LEVELS
from foretrain.scaling.laws.intervals import Interval


def print_plan(plan: BudgetPlan, console: Console) -> None:
    """Print the page."""
    for line in _head(plan):
        print_line(line, console=console)
    console.print(_optimum_table(plan))
    print_line(f"intervals: {plan.source.about_intervals}", console=console)
    console.print()
    console.print(_run_table(plan))
    for line in _about_run(plan):
        print_line(line, console=console)
    if plan.smaller:
        console.print()
        print_line("smaller models, which cost less to use:", console=console)
        console.print(_smaller_table(plan))
        print_line(ABOUT_SMALLER, console=console)
    console.print()
    for line in caveats(plan):
        print_line(f"warning: {line}", console=console, style="yellow")


ABOUT_SMALLER = (
    "inference is a forward pass on one token; 'pays after' is how many tokens of inference save the FLOPs that "
    "training to the same loss adds"
)


def head_of_config(plan: BudgetPlan) -> Iterator[str]:
    """The comment at the head of the config: where it comes from, and what may be wrong with it."""
    yield "Written by `foretrain budget`: a full config of the run that a budget pays for."
    yield from _head(plan)
    yield f"predicted loss {_loss(plan)}"
    yield from (f"warning: {line}" for line in caveats(plan))
    yield from plan.config.mup.evidence


def to_dict(plan: BudgetPlan) -> dict[str, Any]:
    """All numbers of the page; what is not known, or not bounded, is None."""
    spend, run, optimum = plan.ask.spend, plan.run, plan.optimum
    low, high = plan.source.compute_range
    return {
        "budget": {
            **asdict(spend),
            "gpu_hours": spend.gpu_hours(spend.flops),
            "cost_usd": spend.cost(spend.flops),
        },
        "law": {
            "name": plan.source.name,
            "intervals": plan.source.about_intervals,
            "embeddings": plan.source.embeddings,
            **asdict(plan.source.law),
            "smallest_run_flops": low,
            "largest_run_flops": high,
        },
        "optimum": {
            "num_params": optimum.num_params,
            "num_tokens": optimum.num_tokens,
            "tokens_per_param": optimum.tokens_per_param,
            "loss": optimum.loss,
            "flops_per_param_and_token": optimum.flops_per_param,
            "intervals": {name: _bounds(each) for name, each in optimum.intervals.items()},
        },
        "run": {
            **_numbers(run),
            "vocab_size": plan.config.model.vocab_size,
            "global_batch_size": run.rung.global_batch_size,
            "num_steps": run.rung.num_steps,
            "lr": plan.config.optimizer.lr,
            "predicted_loss": plan.predicted_loss,
            "epochs": None if plan.data is None else plan.data.num_epochs,
            "extrapolation": run.rung.flops / high,
            "gpu_hours": spend.gpu_hours(run.rung.flops),
            "cost_usd": spend.cost(run.rung.flops),
            "loss_intervals": {} if plan.prediction is None else _bounds(plan.prediction.intervals),
        },
        "smaller": [
            {
                "same_compute": _numbers(each.run),
                "same_loss": {
                    "num_tokens": each.same_loss_tokens,
                    "flops": each.same_loss_flops,
                    "gpu_hours": None if each.same_loss_flops is None else spend.gpu_hours(each.same_loss_flops),
                    "pays_after_tokens": each.pays_after_tokens,
                },
            }
            for each in plan.smaller
        ],
        "warnings": list(caveats(plan)),
        "objections": list(plan.objections),
    }


def _numbers(run: Run) -> dict[str, Any]:
    rung, shape = run.rung, run.rung.model.block_shape
    return {
        **asdict(shape),
        "num_layers": rung.model.num_layers,
        "num_params": rung.size.num_params,
        "num_params_without_embeddings": rung.size.num_params_without_embeddings,
        "num_tokens": rung.num_tokens,
        "flops": rung.flops,
        "inference_flops_per_token": run.inference_flops,
        "loss": run.loss,
    }


def _bounds(intervals: tuple[Interval, ...]) -> dict[str, list[float | None]]:
    return {f"{each.level:g}": [_known(each.low), _known(each.high)] for each in intervals}


def _known(value: float) -> float | None:
    return value if math.isfinite(value) and value > 0 else None


def _head(plan: BudgetPlan) -> Iterator[str]:
    """The budget and the law."""
    yield f"budget: {_budget(plan)}"
    law, counts = plan.source.law, "all parameters" if plan.source.embeddings else "parameters without embeddings"
    yield (
        f"law: L(N, D) = {law.e:.4g} + {law.a:.4g} / N^{law.alpha:.3f} + {law.b:.4g} / D^{law.beta:.3f}, N being "
        f"{counts}: {plan.source.name}"
    )


def _budget(plan: BudgetPlan) -> str:
    spend = plan.ask.spend
    words = f"{spend.flops:.4g} FLOPs"
    hours, cost = spend.gpu_hours(spend.flops), spend.cost(spend.flops)
    if hours is None:
        return words
    assumed = ", which is assumed" if spend.is_mfu_assumed else ""
    words += f" = {hours:,.0f} hours of {spend.gpu} ({spend.peak_tflops:g} TFLOP/s, MFU {spend.mfu:g}{assumed})"
    if cost is not None:
        words += f" = {cost:,.0f} USD at {spend.price:g} for an hour"
    return words


def _optimum_table(plan: BudgetPlan) -> Table:
    table = table_of_numbers("compute-optimal", "value", *(f"{100 * level:g} % interval" for level in LEVELS))
    table.columns[0].justify = "left"
    optimum = plan.optimum
    rows = {
        "num_params": ("parameters N", optimum.num_params, amount),
        "num_tokens": ("tokens D", optimum.num_tokens, amount),
        "tokens_per_param": ("tokens per parameter", optimum.tokens_per_param, lambda value: f"{value:.3g}"),
        "loss": ("loss", optimum.loss, lambda value: f"{value:.4f}"),
    }
    for name, (words, value, shown) in rows.items():
        intervals = optimum.intervals.get(name, ())
        table.add_row(words, shown(value), *(f"{shown(each.low)} to {shown(each.high)}" for each in intervals))
    if plan.prediction is not None:
        each = (f"{interval.low:.4f} to {interval.high:.4f}" for interval in plan.prediction.intervals)
        table.add_row("loss of the run below", f"{plan.predicted_loss:.4f}", *each)
    return table


def _run_table(plan: BudgetPlan) -> Table:
    table = table_of_numbers(
        "width", "layers", "heads", "d_ff", "rows", "parameters", "tokens", "FLOPs", "steps", "batch", "lr", "epochs"
    )
    rung, shape = plan.run.rung, plan.run.rung.model.block_shape
    heads = str(shape.num_heads) if shape.num_kv_heads == shape.num_heads else f"{shape.num_heads}/{shape.num_kv_heads}"
    epochs = "?" if plan.data is None else f"{plan.data.num_epochs:.2f}"
    table.add_row(
        str(shape.d_model),
        str(rung.model.num_layers),
        heads,
        str(shape.d_ff),
        str(plan.config.model.vocab_size),
        amount(rung.size.num_params),
        amount(rung.num_tokens),
        f"{rung.flops:.4g}",
        f"{rung.num_steps:,}",
        str(rung.global_batch_size),
        f"{plan.config.optimizer.lr:.4g}",
        f"[bold yellow]{epochs}[/]" if plan.data is not None and plan.data.num_epochs > MAX_EPOCHS else epochs,
    )
    return table


def _about_run(plan: BudgetPlan) -> Iterator[str]:
    run, config, spend = plan.run, plan.config, plan.ask.spend
    layout = config.parallel
    depth = "the depth of the config" if plan.aspect is None else f"d_model / num_layers near {plan.aspect:.3g}"
    yield (
        f"the run: predicted loss {_loss(plan)}; {run.rung.flops / spend.flops:.2%} of the budget; "
        f"{run.rung.flops / (6 * run.rung.size.num_params * run.rung.num_tokens):.3g} times 6 N D FLOPs, of all matrix "
        "products and attention scores"
    )
    values = "of the config" if plan.transfer is None else f"of {plan.transfer.study.sweep.name}"
    batch = "that of the config" if plan.ask.batch == "fixed" else BATCH_RULES[plan.ask.batch]
    yield (
        f"rules: {depth}; heads {run.rung.model.block_shape.head_dim} wide; tp = {layout.tp}; batch {batch}; "
        f"{config.mup.parametrization} parametrization, settings {values}; {config.schedule.kind} schedule, warm-up "
        f"{config.schedule.warmup_tokens / config.train.num_tokens:.2%}"
    )
    ratio = run.rung.flops / plan.source.compute_range[1]
    yield f"extrapolation: {ratio:.3g} times the compute of the largest run behind the law"
    hours, ranks = spend.gpu_hours(run.rung.flops), (layout.dp or 1) * layout.tp * layout.cp * layout.pp
    if hours is not None:
        yield f"time: {hours / ranks / 24:.3g} days on the {ranks} ranks of the config's layout"


def _smaller_table(plan: BudgetPlan) -> Table:
    columns = "parameters", "inference", "tokens", "loss", "", "tokens, same loss", "training", "pays after"
    table = table_of_numbers("width", "layers", *columns)
    best = plan.run
    table.add_row(*_smaller_head(best), amount(best.rung.num_tokens), f"{best.loss:.4f}", "", "", "1x", "")
    for each in plan.smaller:
        table.add_row(*_smaller_row(each, best))
    return table


def _smaller_head(run: Run) -> tuple[str, str, str, str]:
    model = run.rung.model
    return (
        str(model.d_model),
        str(model.num_layers),
        amount(run.rung.size.num_params),
        f"{amount(run.inference_flops)} FLOPs",
    )


def _smaller_row(each: Smaller, best: Run) -> tuple[str, ...]:
    run = each.run
    same_compute = amount(run.rung.num_tokens), f"{run.loss:.4f}", f"{run.loss / best.loss - 1:+.2%}"
    if each.same_loss_tokens is None or each.same_loss_flops is None:
        return *_smaller_head(run), *same_compute, "never", "", ""
    pays = "" if each.pays_after_tokens is None else amount(each.pays_after_tokens)
    return (
        *_smaller_head(run),
        *same_compute,
        amount(each.same_loss_tokens),
        f"{each.same_loss_flops / best.rung.flops:.3g}x",
        pays,
    )


def _loss(plan: BudgetPlan) -> str:
    """The predicted loss of the run, with its interval."""
    if plan.prediction is None:
        return f"{plan.predicted_loss:.4f} (no interval is known)"
    interval = plan.prediction.interval(0.9)
    return f"{plan.predicted_loss:.4f} ({interval.low:.4f} to {interval.high:.4f} with 90 %)"


def amount(value: float) -> str:
    """A number with three digits and a letter: 40.3B."""
    if not math.isfinite(value):
        return "inf"
    for limit, letter in ((1e15, "e15"), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= 0.9995 * limit:
            return f"{value / limit:.3g}{letter}" if value < 999.5 * limit else f"{value:.3g}"
    return f"{value:.3g}"
