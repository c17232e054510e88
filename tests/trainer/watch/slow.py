"""Ranks that are slower than others. Not a test module: each rank imports it."""

import time
from typing import Any

from foretrain.parallel.engine import Engine
from foretrain.trainer.callbacks.stragglers import StragglerWatch
from foretrain.trainer.run.rank import train_rank
from foretrain.trainer.watch.stragglers import WINDOW_STEPS
from tests.trainer.steps import before_each_step


def train_slowed(run: Any, slow: int, ratio: float, least_s: float, window_steps: int = WINDOW_STEPS) -> None:
    """Train. Every step takes `least_s` seconds more, and `ratio` times as many on the rank `slow`."""
    StragglerWatch.window_steps = window_steps

    def wait(engine: Engine, number: int) -> None:
        time.sleep(least_s * (ratio if engine.groups.rank == slow else 1.0))

    before_each_step(wait)
    train_rank(run)
