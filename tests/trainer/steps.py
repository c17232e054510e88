"""Steps of a run: faults that are planted between them, and which of their metrics are times."""

from collections.abc import Callable
from typing import Any

from foretrain.parallel.engine import Engine


def is_time(metric: str) -> bool:
    """Whether a metric is measured by a clock, so that two runs with one curve differ in it."""
    return metric in ("step_s", "tokens_per_s", "data_wait_s", "goodput") or metric.startswith("badput/")


def before_each_step(act: Callable[[Engine, int], object]) -> None:
    """Have every engine of this process call act(engine, number) before a training step; the first number is 1."""
    step, number = Engine.train_step, 0

    def train_step(self: Engine, *batch: Any, **options: Any) -> Any:
        nonlocal number
        number += 1
        act(self, number)
        return step(self, *batch, **options)

    Engine.train_step = train_step  # type: ignore[method-assign,assignment]
