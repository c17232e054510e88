"""Ranks that are slower than others. Not a test module: each rank imports it."""

import time
from typing import Any

from foretrain.parallel.engine import Engine
from foretrain.trainer.run.rank import train_rank


def train_slowed(run: Any, slow: int, ratio: float, least_s: float) -> None:
    """Train. Every forward pass of a stage takes `least_s` seconds at the least, and `ratio` times that on `slow`."""
    build = Engine.__init__

    def slowed(engine: Engine, groups: Any, stages: Any, *args: Any, **kwargs: Any) -> None:
        duration_s = least_s * (ratio if groups.rank == slow else 1.0)
        for stage in stages:
            stage.register_forward_pre_hook(lambda *_: time.sleep(duration_s))
        build(engine, groups, stages, *args, **kwargs)

    Engine.__init__ = slowed  # type: ignore[method-assign,assignment]
    train_rank(run)
