"""Planted faults for the benchmark of saves: a copy of the state that takes a second, and steps that a save slows."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.checkpoint.contestants import Ours
from foretrain.configs.schema import Config
from foretrain.parallel.groups import Groups
from foretrain.trainer.checkpoint.pace import Pace

SLOWER_S = 0.5


class SlowCopy(Ours):
    """foretrain, but training waits when a save begins, and in each step in which a piece of it is written."""

    def __init__(self, config: Config, groups: Groups, folder: Path, make_pace: Callable[[float], Pace] = Pace) -> None:
        num_pieces = 0

        def make_counting(share: float) -> Pace:
            pace = make_pace(share)
            pause = pace.pause

            def count() -> None:
                nonlocal num_pieces
                num_pieces += 1
                pause()

            pace.pause = count  # type: ignore[method-assign]
            return pace

        super().__init__(config, groups, folder, make_counting)
        train_step = self.engine.train_step

        def train(*batch: Any) -> Any:
            before = num_pieces
            result = train_step(*batch)
            time.sleep(SLOWER_S * (num_pieces > before))
            return result

        self.engine.train_step = train

    def start(self, number: int) -> None:
        time.sleep(1.0)
        super().start(number)
