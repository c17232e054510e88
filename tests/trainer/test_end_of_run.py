"""At the end of a run, nothing of the engine is left in memory when a model is loaded to generate text."""

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from foretrain.configs.schema import ParallelConfig
from foretrain.parallel.groups import init_groups
from foretrain.trainer.run import rank
from foretrain.trainer.run.rank import train_rank
from foretrain.trainer.run.setup import Run, prepare_run
from foretrain.trainer.trainer import Trainer
from tests.conftest import RunOnRanks
from tests.trainer.test_resume import config


def bytes_left_at_the_end(run: Run) -> dict[str, int]:
    """Bytes of the engine's tensors when a run finishes: parameters, and what the optimizer keeps for them."""
    kept: dict[str, list[weakref.ref[torch.Tensor]]] = {}
    build = Trainer.__init__

    def init(self: Trainer, *args: object, **keywords: object) -> None:
        build(self, *args, **keywords)  # type: ignore[arg-type]
        zero = self.engine.zero
        kept["parameters"] = [weakref.ref(p) for p in zero.module.parameters()]
        states = list(zero.optimizer.state.values())
        kept["moments"] = [weakref.ref(x) for state in states for x in state.values()]

    left: dict[str, int] = {}

    def finish(run: Run) -> None:
        for name, refs in kept.items():
            alive = [tensor for tensor in (ref() for ref in refs) if tensor is not None]
            left[name] = sum(tensor.untyped_storage().nbytes() for tensor in alive)

    Trainer.__init__ = init  # type: ignore[method-assign]
    rank.finish = finish
    init_groups(run.layout, "cpu", 60.0)
    train_rank(run)
    assert all(kept.values())
    return left


@pytest.mark.parametrize("zero_stage", [1, *(pytest.param(stage, marks=pytest.mark.long) for stage in (0, 3))])
def test_the_engine_is_freed_before_text_is_generated(
    zero_stage: Any, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    run = prepare_run(config(tmp_path, corpus, ParallelConfig(dp=1, zero_stage=zero_stage)))
    assert ranks(1, bytes_left_at_the_end, run) == [{"parameters": 0, "moments": 0}]
