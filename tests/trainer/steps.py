"""Faults that are planted between the steps of a run."""

from collections.abc import Callable
from typing import Any

from foretrain.parallel.engine import Engine


def before_each_step(act: Callable[[Engine, int], object]) -> None:
    """Have every engine of this process call act(engine, number) before a training step; the first number is 1."""
    step, number = Engine.train_step, 0

    def train_step(self: Engine, *batch: Any, **options: Any) -> Any:
        nonlocal number
        number += 1
        act(self, number)
        return step(self, *batch, **options)

    Engine.train_step = train_step  # type: ignore[method-assign]
