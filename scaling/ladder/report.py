"""What a ladder shows: its plan before a run starts, its results so far, and at the end how to continue."""

from collections.abc import Iterator, Mapping
from itertools import pairwise

from rich.console import Console
from rich.table import Table

from foretrain.progress import print_line
from foretrain.scaling.console import table_of_numbers
from foretrain.scaling.ladder.plan import LadderPlan
from foretrain.scaling.ladder.run import Ladder
from foretrain.scaling.ladder.rungs import BATCH_RULES, COST_OF_EPOCHS, MAX_EPOCHS, Rung
from foretrain.scaling.ladder.summary import pooled_noise, result_of
from foretrain.scaling.records import LADDER_FILE, RESULTS_FILE
from foretrain.scaling.trials.progress import TrialProgress
from foretrain.scaling.trials.record import Outcome
from foretrain.scaling.trials.trial import Trial
from foretrain.trainer.run.exit_status import EXIT_DONE, EXIT_FAILED

MAX_HORIZON_CHANGE = 0.05
"""Relative difference of the tokens per parameter of rungs and target from which the plan warns."""


class LadderProgress(TrialProgress):
    """Progress of a ladder: the number of runs that have ended, and the losses so far; a context manager."""

    def __init__(self, plan: LadderPlan, console: Console | None = None) -> None:
        super().__init__(len(plan.all_trials), lambda _, outcomes: results_table(plan, outcomes), console)


def print_plan(plan: LadderPlan, console: Console) -> None:
    """Print the rungs, their cost, and how far the target is; and what may spoil a prediction from them."""
    console.print(_plan_table(plan))
    for line in _about(plan):
        print_line(line, console=console)
    for line in warnings(plan):
        print_line(f"warning: {line}", console=console, style="yellow")


def print_end(ladder: Ladder, status: int, console: Console) -> None:
    """Print the losses of each rung, what failed, and how to continue."""
    plan, outcomes = ladder.plan, ladder.outcomes
    console.print(results_table(plan, outcomes))
    noise = pooled_noise([result_of(trials, outcomes) for trials in plan.trials])
    if noise is not None:
        print_line(f"noise: a run's loss differs by {noise:.2%} between seeds (standard deviation)", console=console)
    num_trials = len(plan.all_trials)
    lines = [f"{ladder.out / RESULTS_FILE}: {len(outcomes)} of {num_trials} runs; {ladder.out / LADDER_FILE}: the plan"]
    diverged = [trial.name for trial in plan.all_trials if _diverged(outcomes, trial)]
    if diverged:
        lines.append(
            f"{len(diverged)} runs DIVERGED: {', '.join(diverged)}; lower optimizer.lr, and choose another --out"
        )
    if ladder.failures:
        lines.append(f"{len(ladder.failures)} runs FAILED: {', '.join(trial.name for trial in ladder.failures)}")
    if status not in (EXIT_DONE, EXIT_FAILED):
        joins = "the runs continue, and the same command joins them"
        lines.append(f"stopped: {joins if ladder.outlives_stop else 'the same command resumes'}")
    elif ladder.failures:
        lines.append("the same command tries them again")
    for line in lines:
        print_line(line, console=console)


def results_table(plan: LadderPlan, outcomes: Mapping[str, Outcome]) -> Table:
    """The held-out losses of each rung so far."""
    table = table_of_numbers(
        "rung", "parameters", "tokens", "FLOPs", *(f"seed {seed}" for seed in plan.seeds), "mean", "std"
    )
    for number, (rung, trials) in enumerate(zip(plan.rungs, plan.trials, strict=True), start=1):
        found = result_of(trials, outcomes)
        cells = [
            "diverged" if _diverged(outcomes, trial) else _loss(loss)
            for trial, loss in zip(trials, found.losses, strict=True)
        ]
        table.add_row(str(number), *_size(rung), *cells, _loss(found.mean), _loss(found.std))
    return table


def warnings(plan: LadderPlan) -> Iterator[str]:
    """What may spoil a prediction from the ladder, and what to change."""
    repeated = [
        f"rung {number} reads its data {epochs:.1f} times"
        for number, epochs in enumerate(plan.num_epochs, start=1)
        if epochs > MAX_EPOCHS
    ]
    if repeated:
        yield f"{', '.join(repeated)}: {COST_OF_EPOCHS}; use more data, or lower --budget or --tokens-per-param"
    of_target = plan.goal.num_tokens / plan.goal.size.num_params
    if abs(plan.rules.tokens_per_param / of_target - 1) > MAX_HORIZON_CHANGE:
        yield (
            f"the target trains on {of_target:.3g} tokens per parameter, and is not on the line of rungs with "
            f"{plan.rules.tokens_per_param:.3g}: leave --tokens-per-param out, or change the target's train.num_tokens"
        )
    if plan.ask.num_seeds == 1:
        yield "one seed shows no noise, and a loss is known no better than its noise: give --seeds 2 or more"
    if plan.target.mup.parametrization == "standard":
        yield "under the standard parametrization one learning rate is not the best for all rungs"


def _about(plan: LadderPlan) -> Iterator[str]:
    """The rules, the cost, and the distance to the target."""
    ratios = [large.flops / small.flops for small, large in pairwise(plan.rungs)]
    largest, goal = plan.rungs[-1], plan.goal
    steps = " to ".join(dict.fromkeys(f"{ratio:.3g}" for ratio in (min(ratios), max(ratios))))
    yield (
        f"cost: {plan.flops:.3g} FLOPs for {plan.ask}, "
        f"{plan.flops / plan.ask.budget_flops:.0%} of the budget of {plan.ask.budget_flops:g}; a rung costs {steps} "
        "times the one below"
    )
    yield (
        f"extrapolation: the target costs {goal.flops / largest.flops:.3g} times the largest rung, and has "
        f"{goal.size.num_params / largest.size.num_params:.3g} times its parameters; the ladder takes "
        f"{plan.flops / goal.flops:.2%} of the target's FLOPs"
    )
    shares = plan.target.schedule.warmup_tokens / plan.target.train.num_tokens
    values = "of the config" if plan.transfer is None else f"of {plan.transfer.study.sweep.name}"
    yield (
        f"rules: {plan.target.mup.parametrization}; {plan.rules.tokens_per_param:.3g} tokens per parameter (embeddings "
        f"included); batch {BATCH_RULES[plan.rules.batch]}; {plan.target.schedule.kind} schedule, warm-up "
        f"{shares:.2%}; settings {values}"
    )


def _plan_table(plan: LadderPlan) -> Table:
    table = table_of_numbers(
        "rung", "width", "layers", "heads", "parameters", "tokens", "FLOPs", "steps", "batch", "lr", "epochs"
    )
    for number, (rung, epochs) in enumerate(zip(plan.rungs, plan.num_epochs, strict=True), start=1):
        shown = f"[bold yellow]{epochs:.2f}[/]" if epochs > MAX_EPOCHS else f"{epochs:.2f}"
        table.add_row(str(number), *_shape(rung), *_size(rung), *_training(rung), shown)
    table.add_row("target", *_shape(plan.goal), *_size(plan.goal), *_training(plan.goal), "", style="dim")
    return table


def _shape(rung: Rung) -> tuple[str, str, str]:
    return str(rung.model.d_model), str(rung.model.num_layers), str(rung.model.num_heads)


def _size(rung: Rung) -> tuple[str, str, str]:
    return f"{rung.size.num_params:,}", f"{rung.num_tokens:,}", f"{rung.flops:.3g}"


def _training(rung: Rung) -> tuple[str, str, str]:
    return f"{rung.num_steps:,}", str(rung.global_batch_size), f"{rung.lr:.4g}"


def _loss(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.4f}"


def _diverged(outcomes: Mapping[str, Outcome], trial: Trial) -> bool:
    return trial.key in outcomes and outcomes[trial.key].status == "diverged"
