"""A bit of the optimizer's state that changes between two updates is found, on any layout, and nothing else is."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from foretrain.configs.schema import ParallelConfig
from foretrain.launcher.local.run import RankError
from foretrain.parallel.engine import Engine
from foretrain.trainer.run.rank import train_rank
from foretrain.trainer.run.setup import prepare_run
from tests.conftest import RunOnRanks
from tests.trainer.steps import before_each_step
from tests.trainer.test_resume import NUM_STEPS, config, curve

CHANGED_IN = 4
"""The step in whose forward or backward pass a bit changes."""
LAYOUTS = {
    "zero 1": ParallelConfig(dp=2),
    "zero 0": ParallelConfig(dp=2, zero_stage=0),
    "zero 2": ParallelConfig(dp=2, zero_stage=2),
    "zero 3": ParallelConfig(dp=2, zero_stage=3),
    "tp": ParallelConfig(tp=2),
    "pp": ParallelConfig(pp=2),
    "offload": ParallelConfig(dp=2, offload_optimizer=True),
}
CHANGES = [
    ("zero 1", "fp32", "exp_avg"),
    ("zero 0", "fp32", "exp_avg_sq"),
    ("zero 2", "bf16", "weight"),
    ("zero 3", "fp32", "weight"),
    ("zero 3", "bf16", "exp_avg"),
    ("tp", "fp32", "weight"),
    ("pp", "bf16", "exp_avg"),
    ("offload", "bf16", "weight"),
]
"""A layout, a precision, and the state of which a bit changes."""


def first_is_quick(cases: list[Any]) -> list[Any]:
    """The cases as parameters of a test; all but the first belong to the long suite."""
    return [
        cases[0],
        *(pytest.param(*([case] if isinstance(case, str) else case), marks=pytest.mark.long) for case in cases[1:]),
    ]


def train_and_flip(run: Any, rank: int, key: str) -> None:
    """Train, and change the lowest bit of one element of the state `key` of a rank."""

    def flip(engine: Engine, number: int) -> None:
        if number == CHANGED_IN and engine.groups.rank == rank:
            pieces = [engine.zero.piece(parameter) for stage in engine.stages for parameter in stage.parameters()]
            state = next(piece.states[key] for piece in pieces if piece is not None and len(piece.states[key]) > 5)
            state.view(torch.int32)[5:6].bitwise_xor_(1)

    before_each_step(flip)
    train_rank(run)


@pytest.mark.parametrize(("layout", "precision", "key"), first_is_quick(CHANGES))
def test_one_bit_that_changes_in_memory_ends_the_run_and_names_the_rank_and_the_step(
    layout: str, precision: str, key: str, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    settings = {"check_memory": True, "check_every": 5, "precision": precision}
    run = prepare_run(config(tmp_path, corpus, LAYOUTS[layout], **settings))
    with pytest.raises(RankError) as found:
        ranks(2, train_and_flip, run, 1, key)
    text = str(found.value)
    assert "after step 5, weights or moments that only the optimizer may change are not as it has left them" in text
    assert re.search(r"rank 1 on .*: between the updates of step 3 and of step 4\n", text)
    assert "rank 0 on" not in text
    assert "Resume from a checkpoint before step 3: one of that step may have the change, and remove later" in text


@pytest.mark.parametrize("layout", first_is_quick([*LAYOUTS]))
def test_a_sound_run_that_is_checked_has_the_curve_of_one_that_is_not(
    layout: str, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    curves = []
    for is_checked in (True, False):
        folder = tmp_path / str(is_checked)
        settings = config(folder, corpus, LAYOUTS[layout], check_memory=is_checked, check_every=1, stop_after=3)
        ranks(2, train_rank, prepare_run(settings))
        ranks(2, train_rank, prepare_run(config(folder, corpus, LAYOUTS[layout], check_memory=is_checked)))
        curves.append(curve(folder))
    assert curves[0] == curves[1] and curves[0][-1]["step"] == NUM_STEPS
