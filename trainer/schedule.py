"""The learning-rate schedule: a pure function from tokens consumed to one factor for every learning rate.

It counts tokens, not steps or ranks, so that another number of GPUs, or a restart, leaves it as it is.
"""

import math

from foretrain.configs.optimization import ScheduleConfig


def check(cfg: ScheduleConfig, budget_tokens: int) -> None:
    """Raise ValueError if warm-up and decay do not fit into the budget."""
    if cfg.warmup_tokens > budget_tokens:
        raise ValueError(
            f"schedule.warmup_tokens = {cfg.warmup_tokens} is more than train.num_tokens = {budget_tokens}: "
            "shorten the warm-up, or train on more tokens"
        )
    if cfg.kind == "constant" and cfg.warmup_tokens + cfg.decay_tokens > budget_tokens:
        raise ValueError(
            f"schedule.warmup_tokens = {cfg.warmup_tokens} and schedule.decay_tokens = {cfg.decay_tokens} together are "
            f"more than train.num_tokens = {budget_tokens}: shorten one, or train on more tokens"
        )


def factor(tokens_before: int, tokens_of_step: int, budget_tokens: int, cfg: ScheduleConfig) -> float:
    """Return what multiplies every learning rate in the step that takes tokens (before, before + of_step].

    The value is that of the schedule at the step's last token, so the first step already learns, the step that ends
    at `warmup_tokens` has factor 1, and the last one has `min_factor`. The last step may reach past the budget, as the
    number of steps is rounded up; the schedule stays at its end there. Expects a config that `check` accepts.
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
