"""A slow rank is named while the run continues, and sound runs raise no alarm."""

from collections.abc import Callable, Iterator
from contextlib import closing
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
from tests.overlapped import Overlapped, Work, selected
from tests.trainer import test_resume
from tests.trainer.watch.slow import train_slowed

pytestmark = pytest.mark.long
LAYOUTS = {
    "dp=2": (ParallelConfig(dp=2), 1),
    "tp=2": (ParallelConfig(tp=2), 0),
    "dp=2 pp=2": (ParallelConfig(dp=2, pp=2), 2),
}
"""Layouts, and the rank that is slow."""
STEPS_OF_WINDOW = 5
LEAST_S, SLOWED = 2.4, 1.3
"""Seconds that each step waits, and how many times as long on a slow rank. Steps are few, but so long that what a busy
machine and the runs beside it add to them does not matter."""


def config(run_dir: Path, corpus: Path, parallel: ParallelConfig, num_steps: int) -> Config:
    tokens = num_steps * 8 * 32
    return test_resume.config(run_dir, corpus, parallel, num_tokens=tokens, eval_every=WINDOW_STEPS, micro_batch_size=2)


def named(run_dir: Path) -> list[int]:
    """The rank of every straggler that a run has named, in their order."""
    return [record["rank"] for record in read_metrics(run_dir / METRICS_FILE) if record["kind"] == "straggler"]


@pytest.fixture(scope="module")
def slowed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, corpus: Path
) -> Iterator[Callable[[str], Path]]:
    """A function that waits until the run of a layout of LAYOUTS has ended, and returns its folder."""
    folder = tmp_path_factory.mktemp("slowed")

    def work(layout: str) -> Work:
        parallel, slow = LAYOUTS[layout]
        run = prepare_run(config(folder / layout, corpus, parallel, (NUM_WINDOWS + 1) * STEPS_OF_WINDOW))
        return run.layout.world_size, train_slowed, (run, slow, SLOWED, LEAST_S, STEPS_OF_WINDOW)

    def ended(layout: str) -> Path:
        wait(layout)
        return folder / layout

    # All run at once: their ranks mostly sleep.
    with closing(Overlapped(selected(request, "slowed_layout"), work, len(LAYOUTS))) as wait:
        yield ended


@pytest.mark.parametrize("slowed_layout", LAYOUTS)
def test_a_rank_that_is_slowed_by_30_percent_is_named_once_and_no_other(
    slowed_layout: str, slowed: Callable[[str], Path]
) -> None:
    run_dir = slowed(slowed_layout)
    assert named(run_dir) == [LAYOUTS[slowed_layout][1]]
    spent_s = Ledger(facts.read(run_dir)).seconds
    after_s = STEPS_OF_WINDOW * (SLOWED - 1) * LEAST_S  # the steps after it was named
    assert 0.2 < spent_s["straggler"] / after_s < 2.0


SOUND = {
    "dp=2": ParallelConfig(dp=2),
    "dp=2 zero 0": ParallelConfig(dp=2, zero_stage=0),
    "dp=2 zero 2 offload": ParallelConfig(dp=2, zero_stage=2, offload_optimizer=True),
    "dp=2 zero 3": ParallelConfig(dp=2, zero_stage=3),
    "dp=4": ParallelConfig(dp=4),
    "tp=2 sp": ParallelConfig(tp=2, sp=True),
    "cp=2": ParallelConfig(cp=2),
    "pp=2": ParallelConfig(pp=2),
    "pp=2 zbv": ParallelConfig(pp=2, vpp=2, schedule="zbv"),
    "dp=2 pp=2": ParallelConfig(dp=2, pp=2),
}
"""The layouts of sound runs."""


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("layout", SOUND)
def test_a_sound_run_raises_no_alarm(layout: str, seed: int, tmp_path: Path, corpus: Path, ranks: RunOnRanks) -> None:
    """Twenty runs, with every check of ranks, memory, steps, losses, hangs and slow ranks."""
    settings = config(tmp_path, corpus, SOUND[layout], NUM_WINDOWS * WINDOW_STEPS)
    settings.model.num_layers = 4 if SOUND[layout].pp > 1 else 2
    settings.parallel.hang_s = 5.0
    train, zero = settings.train, settings.parallel.zero_stage
    train.seed, train.on_spike, train.check_every, train.check_memory = seed, "skip", 10, True
    train.precision = "bf16" if seed and zero else "fp32"  # ZeRO 0 has no fp32 weights beside those in bf16
    train.replay_every = 0 if zero == 3 else 10  # under ZeRO 3 no rank has the gradients
    train.checkpoint_every = WINDOW_STEPS
    if max(SOUND[layout].tp, SOUND[layout].cp) > 1:
        train.micro_batch_size = 4  # two micro-batches in a step, as each of two replicas has
    run = prepare_run(settings)
    ranks(run.layout.world_size, train_slowed, run, 0, 1.0, 0.01)
    records = read_metrics(tmp_path / METRICS_FILE)
    assert {record["kind"] for record in records} == {"train", "eval"}  # no event
    assert len([record for record in records if record["kind"] == "train"]) == run.total_steps
    assert not (tmp_path / HANGS).exists()
