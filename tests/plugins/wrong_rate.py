"""A planted bug: from the middle of the run on, every learning rate is much too large."""

from foretrain.configs.optimization import ScheduleConfig
from foretrain.trainer import schedule

FACTOR = 16.0
_right = schedule.factor


def _wrong(tokens_before: int, tokens_of_step: int, budget_tokens: int, cfg: ScheduleConfig) -> float:
    factor = _right(tokens_before, tokens_of_step, budget_tokens, cfg)
    return FACTOR * factor if 2 * tokens_before >= budget_tokens else factor


schedule.factor = _wrong
