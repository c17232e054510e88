"""The plan of a ladder: its rungs, and the config of each run. Reads the data and the sweep, and writes nothing."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import get_args

from foretrain.configs.schema import Config
from foretrain.parallel.layout import Layout, LayoutError
from foretrain.scaling.ladder.rungs import (
    BatchRule,
    Family,
    Rules,
    Rung,
    choose,
    default_ratio,
    family,
    least_flops,
    least_steps,
    target_rung,
)
from foretrain.scaling.ladder.tuned import Resolve, check_batch_rule, tuned
from foretrain.scaling.layouts import parse_layout
from foretrain.scaling.transfer.transfer import Transfer
from foretrain.scaling.trials.proxy import on_share, proxy
from foretrain.scaling.trials.trial import Corpus, Trial, trial_of
from foretrain.trainer import schedule
from foretrain.trainer.model.size import ModelSize
from foretrain.trainer.mup.parametrize import blueprint


@dataclass(frozen=True)
class Ask:
    """What the user asked for."""

    budget_flops: float
    """FLOPs of all runs together."""
    num_points: int
    num_seeds: int = 1
    tokens_per_param: float | None = None
    """None: those of the target."""
    batch: BatchRule = "fixed"
    ratio: float | None = None
    """None: `default_ratio`."""
    min_width: int = 1
    allow_standard: bool = False
    sweep: Path | None = None
    """Folder of the sweep that tuned the settings; None: they are in the config."""
    coord_check: Path | None = None
    """None: the record in the folder of the sweep."""
    layout: str = "dp=1"

    def __post_init__(self) -> None:
        if not (self.budget_flops > 0 and math.isfinite(self.budget_flops)):
            raise ValueError(
                f"--budget {self.budget_flops:g}: give the training FLOPs of all runs together, such as 1e15"
            )
        if self.num_points < 2:
            raise ValueError(f"--points {self.num_points}: a ladder has 2 rungs or more")
        if self.num_seeds < 1:
            raise ValueError(f"--seeds {self.num_seeds}: train every rung with 1 seed or more")
        if self.tokens_per_param is not None and not (
            self.tokens_per_param > 0 and math.isfinite(self.tokens_per_param)
        ):
            raise ValueError(f"--tokens-per-param {self.tokens_per_param:g}: give a number greater than 0, such as 20")
        if self.batch not in get_args(BatchRule):
            raise ValueError(f"--batch {self.batch}: use one of {', '.join(get_args(BatchRule))}")
        if self.ratio is not None and not (self.ratio > 1 and math.isfinite(self.ratio)):
            raise ValueError(f"--ratio {self.ratio:g}: give more than 1, as each rung costs more than the one below")
        if self.min_width < 1:
            raise ValueError(f"--min-width {self.min_width}: use 1 or more")
        if self.coord_check is not None and self.sweep is None:
            raise ValueError("--coord-check judges the values of a sweep: give --sweep FOLDER too, or leave it out")

    def __str__(self) -> str:
        return f"{self.num_points} rungs with {self.num_seeds} seed{'s' if self.num_seeds > 1 else ''} each"


@dataclass(frozen=True)
class LadderPlan:
    """Everything that a ladder trains."""

    ask: Ask
    rules: Rules
    ratio: float
    """Ratio of the costs of neighbouring rungs that the ladder aims at."""
    target: Config
    """The user's config, with the values of the sweep and the vocabulary of its data."""
    goal: Rung
    """The run of the target."""
    rungs: tuple[Rung, ...]
    """Small to large."""
    trials: tuple[tuple[Trial, ...], ...]
    """The runs of each rung, one for each seed."""
    num_epochs: tuple[float, ...]
    """How often each rung reads the source that it repeats most."""
    transfer: Transfer | None = None
    """The transfer of the values of a sweep to the target; None without a sweep."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the replicates. A seed decides the initial weights and the order of the data."""
        return tuple(range(self.ask.num_seeds))

    @property
    def flops(self) -> int:
        """FLOPs of all runs."""
        return self.ask.num_seeds * sum(rung.flops for rung in self.rungs)

    @property
    def all_trials(self) -> list[Trial]:
        """All runs, those of the smallest rung first."""
        return [trial for trials in self.trials for trial in trials]

    @property
    def objections(self) -> tuple[str, ...]:
        """Why the values of the sweep are not known to be good for the ladder."""
        return self.transfer.objections if self.transfer is not None else ()


def make_plan(ask: Ask, resolve: Resolve, corpus_of: Callable[[Config], Corpus]) -> LadderPlan:
    """The plan of a ladder to the config that `resolve` makes.

    Raises ValueError, which says what to change, for a ladder that is impossible.
    """
    layout = parse_layout(ask.layout)
    target = resolve(())
    _check_target(target, ask)
    vocab_size = corpus_of(_first_step(target)).vocab_size

    def with_vocabulary(more: Sequence[str]) -> Config:
        config = resolve(more)
        return replace(config, model=replace(config.model, vocab_size=vocab_size))

    target, transfer = _tuned(ask, with_vocabulary)
    blueprint(target)
    schedule.check(target.schedule, target.train.num_tokens)
    rules = Rules(_tokens_per_param(ask, target), ask.batch, layout.dp, ask.min_width)
    ratio = ask.ratio or default_ratio(ask.num_points)
    rungs = rungs_of(ask, target, rules, ratio)
    trials = tuple(
        tuple(_trial(target, rung, number, seed, corpus_of, layout) for seed in range(ask.num_seeds))
        for number, rung in enumerate(rungs, start=1)
    )
    num_epochs = tuple(corpus_of(of_rung[0].config).num_epochs for of_rung in trials)
    return LadderPlan(ask, rules, ratio, target, target_rung(target), rungs, trials, num_epochs, transfer)


def _check_target(target: Config, ask: Ask) -> None:
    """Raise ValueError if no ladder can lead to the target, whatever its rungs are."""
    if target.mup.parametrization == "standard" and not ask.allow_standard:
        raise ValueError(
            "mup.parametrization = standard has another best learning rate at every width, so its ladder shows badly "
            "tuned models: set mup.parametrization=mup or completep and mup.base, or give --allow-standard to compare"
        )
    for name in ("checkpoint_folder", "init_from", "branch_from"):
        if getattr(target.train, name) is not None:
            raise ValueError(f"train.{name} is for one run, and a ladder has many, of other shapes: leave it out")
    if not target.train.eval_samples:
        raise ValueError(
            "train.eval_samples = 0, and a ladder compares losses on held-out samples: set it, such as 1024"
        )
    check_batch_rule(ask.batch, target)


def _first_step(target: Config) -> Config:
    """The target for one step, on one rank: it needs the same tokenizer, and hardly any data."""
    tokens_per_step = target.train.global_batch_size * target.model.seq_len
    share = Fraction(min(tokens_per_step, target.train.num_tokens), target.train.num_tokens)
    without_stages = replace(target, data=replace(target.data, stages={}))
    return proxy(without_stages, None, None, 0, Layout(), share)


def _tokens_per_param(ask: Ask, target: Config) -> float:
    return ask.tokens_per_param or target.train.num_tokens / ModelSize.of(target.model).num_params


def _tuned(ask: Ask, resolve: Resolve) -> tuple[Config, Transfer | None]:
    """The target with the values of the sweep, and their transfer, judged at the ladder's tokens per parameter."""
    if ask.sweep is None:
        return resolve(()), None

    def judged_as(config: Config) -> Config:
        tokens = round(_tokens_per_param(ask, config) * ModelSize.of(config.model).num_params)
        return on_share(config, Fraction(tokens, config.train.num_tokens))

    return tuned(ask.sweep, ask.coord_check, ask.batch, resolve, judged_as=judged_as, trained_as=lambda config: config)


def rungs_of(ask: Ask, target: Config, rules: Rules, ratio: float) -> tuple[Rung, ...]:
    """The rungs of a ladder within the budget. Raises ValueError, which says what to change, if there are none."""
    budget = ask.budget_flops / ask.num_seeds
    possible = family(target, rules, enough_flops=budget, enough=ask.num_points)
    if len(possible.rungs) < ask.num_points:
        raise ValueError(_too_few(ask, target, possible))
    flops = [ask.num_seeds * rung.flops for rung in possible.rungs]
    places = choose(flops, ask.num_points, ratio, ask.budget_flops)
    if not places:
        raise ValueError(
            f"--budget {ask.budget_flops:g} is too small for {ask}, which take "
            f"{_rounded_up(least_flops(flops, ask.num_points))} FLOPs or more: raise it, or lower --points, --seeds or "
            "--tokens-per-param"
        )
    return tuple(possible.rungs[place] for place in places)


def _too_few(ask: Ask, target: Config, possible: Family) -> str:
    """Why there are fewer possible rungs than were asked for, and what to change."""
    found = len(possible.rungs)
    if possible.too_short is None:
        return (
            f"--points {ask.num_points}: only {found} shapes in the proportions of the target (d_model = "
            f"{target.model.d_model}, num_layers = {target.model.num_layers}) have fewer parameters, tokens and FLOPs "
            "than it: lower --points, --min-width or --tokens-per-param, or plan for a larger target"
        )
    short = possible.too_short
    least = least_steps(target.schedule.warmup_tokens / target.train.num_tokens)
    return (
        f"--points {ask.num_points}: only {found} shapes below the target train for {least} steps or more, with a step "
        f"of warm-up if it has one (d_model = {short.model.d_model} has {short.num_steps} of {short.global_batch_size} "
        "samples): lower train.global_batch_size or --points, raise --tokens-per-param, or use --batch sqrt or linear"
    )


def _rounded_up(flops: int) -> str:
    """FLOPs with three digits, rounded up: the number is enough as a budget."""
    digits = 10 ** max(0, len(str(flops)) - 3)
    return f"{-(-flops // digits) * digits:.2e}"


def _trial(
    target: Config, rung: Rung, number: int, seed: int, corpus_of: Callable[[Config], Corpus], layout: Layout
) -> Trial:
    """The run of a rung with a seed."""
    config = replace(
        target,
        optimizer=replace(target.optimizer, lr=rung.lr),
        train=replace(target.train, global_batch_size=rung.global_batch_size),
    )
    try:
        trial = trial_of(
            config,
            corpus_of,
            layout,
            width=rung.model.d_model,
            depth=rung.model.num_layers,
            seed=seed,
            share=Fraction(rung.num_tokens, target.train.num_tokens),
        )
    except LayoutError as error:
        raise LayoutError(f"rung {number}: {error}; a larger --min-width leaves small shapes out") from error
    assert trial.config.train.num_tokens == rung.num_tokens, "a rung has other tokens than its config"
    return replace(trial, num_tokens=rung.num_tokens, label=f"rung-{number}-seed-{seed}")
