"""A slow rank is named while the run continues, and sound runs raise no alarm."""

from pathlib import Path

import pytest

from foretrain.configs.schema import Config, ParallelConfig
from foretrain.trainer.goodput import facts
from foretrain.trainer.goodput.ledger import Ledger
from foretrain.trainer.metrics import METRICS_FILE, read_metrics
from foretrain.trainer.run.folder import HANGS
from foretrain.trainer.run.setup import prepare_run
from foretrain.trainer.watch.stragglers import NUM_WINDOWS, WINDOW_STEPS
from tests.conftest import RunOnRanks
from tests.trainer import test_resume
from tests.trainer.watch.slow import train_slowed

pytestmark = pytest.mark.long
LAYOUTS = {
    "dp=2": (ParallelConfig(dp=2), 1),
    "tp=2": (ParallelConfig(tp=2), 0),
    "dp=2 pp=2": (ParallelConfig(dp=2, pp=2), 2),
}
"""Layouts, and the rank that is slow."""


def config(run_dir: Path, corpus: Path, parallel: ParallelConfig, num_steps: int) -> Config:
    tokens = num_steps * 8 * 32
    return test_resume.config(run_dir, corpus, parallel, num_tokens=tokens, eval_every=WINDOW_STEPS, micro_batch_size=2)


def named(run_dir: Path) -> list[int]:
    """The rank of every straggler that a run has named, in their order."""
    return [record["rank"] for record in read_metrics(run_dir / METRICS_FILE) if record["kind"] == "straggler"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_rank_that_is_slowed_by_30_percent_is_named_once_and_no_other(
    layout: str, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    parallel, slow = LAYOUTS[layout]
    steps_of_window = 5  # few, but so long that what a busy machine adds to them does not matter
    run = prepare_run(config(tmp_path, corpus, parallel, (NUM_WINDOWS + 1) * steps_of_window))
    ranks(run.layout.world_size, train_slowed, run, slow, 1.3, 1.2, steps_of_window)
    assert named(tmp_path) == [slow]
    spent_s = Ledger(facts.read(tmp_path)).seconds
    assert 0.2 < spent_s["straggler"] / (steps_of_window * 0.3 * 1.2) < 2.0  # the steps after it was named


@pytest.mark.parametrize("number", range(20))
def test_a_sound_run_raises_no_alarm(number: int, tmp_path: Path, corpus: Path, ranks: RunOnRanks) -> None:
    parallel, _ = [*LAYOUTS.values()][number % len(LAYOUTS)]
    run = prepare_run(config(tmp_path, corpus, parallel, NUM_WINDOWS * WINDOW_STEPS))
    run.config.parallel.hang_s = 5.0
    ranks(run.layout.world_size, train_slowed, run, 0, 1.0, 0.01)
    assert {record["kind"] for record in read_metrics(tmp_path / METRICS_FILE)} == {"train", "eval"}  # no event
    assert not (tmp_path / HANGS).exists()
