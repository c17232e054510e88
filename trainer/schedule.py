"""The learning-rate schedule: a pure function from tokens consumed to one factor for every learning rate.

It counts tokens, not steps or ranks, so it does not change with the number of GPUs or with a restart.
"""

import math

from foretrain.configs.optimization import ScheduleConfig


def check(cfg: ScheduleConfig, budget_tokens: int) -> None:
    """Raise ValueError if warm-up and decay do not fit into the budget, or the rate could not reach `min_factor`."""
    if cfg.warmup_tokens > budget_tokens:
        raise ValueError(
            f"schedule.warmup_tokens = {cfg.warmup_tokens} is more than train.num_tokens = {budget_tokens}: "
            "shorten the warm-up, or train on more tokens"
        )
    if cfg.kind != "constant" and cfg.warmup_tokens == budget_tokens and cfg.min_factor != 1:
        raise ValueError(
            f"schedule.warmup_tokens = {cfg.warmup_tokens} is all of train.num_tokens, so that schedule.kind = "
            f"{cfg.kind} cannot fall to schedule.min_factor = {cfg.min_factor:g}: shorten the warm-up, train on more "
            "tokens, or set schedule.kind=constant"
        )
    if cfg.kind == "constant" and cfg.warmup_tokens + cfg.decay_tokens > budget_tokens:
        raise ValueError(
            f"schedule.warmup_tokens = {cfg.warmup_tokens} and schedule.decay_tokens = {cfg.decay_tokens} together are "
            f"more than train.num_tokens = {budget_tokens}: shorten one, or train on more tokens"
        )


def factor(tokens_before: int, tokens_of_step: int, budget_tokens: int, cfg: ScheduleConfig) -> float:
    """The factor on every learning rate in the step that trains on tokens (before, before + of_step].

    It is the schedule at the last token of the step: the first step already learns, the step that ends at
    `warmup_tokens` has factor 1, and the last step has `min_factor`. The last step may reach beyond the budget, since
    the number of steps is rounded up; the schedule then stays at its final value. `check` must accept the config.
    """
    assert tokens_before >= 0 and tokens_of_step > 0, (tokens_before, tokens_of_step)
    end_tokens = min(tokens_before + tokens_of_step, budget_tokens)
    if end_tokens < cfg.warmup_tokens:
        return end_tokens / cfg.warmup_tokens
    decay_start_tokens = budget_tokens - cfg.decay_tokens if cfg.kind == "constant" else cfg.warmup_tokens
    if end_tokens <= decay_start_tokens:
        return 1.0
    progress = (end_tokens - decay_start_tokens) / (budget_tokens - decay_start_tokens)
    remaining = (1 + math.cos(math.pi * progress)) / 2 if cfg.kind == "cosine" else 1 - progress
    return cfg.min_factor + (1 - cfg.min_factor) * remaining
