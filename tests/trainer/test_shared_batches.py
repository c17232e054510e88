"""One of the ranks that train on the same samples reads them from storage, and all see what it has read."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foretrain.configs.schema import ParallelConfig
from foretrain.data_pipeline.corpus.shards import TokenStream
from foretrain.data_pipeline.errors import UnreadableError
from foretrain.data_pipeline.stream.batches import Prefetcher
from foretrain.launcher.local.run import RankError
from foretrain.parallel.groups import init_groups
from foretrain.parallel.layout import Layout
from foretrain.trainer.run.rank import train_rank
from foretrain.trainer.run.setup import Run, prepare_run
from foretrain.trainer.shared_batches import SharedBatches
from foretrain.trainer.trainer import Trainer
from tests.conftest import RunOnRanks
from tests.trainer.test_resume import config, curve

PARALLEL = ParallelConfig(pp=2, tp=2)


def num_reads(run: Run) -> int:
    """How often this rank reads rows of tokens in a run, without those of held-out samples."""
    reads = []
    read_rows = TokenStream.read_rows

    def counted(self: TokenStream, *args: Any) -> None:
        if self.split == "train":
            reads.append(1)
        read_rows(self, *args)

    TokenStream.read_rows = counted  # type: ignore[assignment,method-assign]
    train_rank(run)
    return len(reads)


def test_one_rank_of_those_that_share_samples_reads_them_and_the_curve_is_that_of_one_process(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    shared = prepare_run(config(tmp_path / "shared", corpus, PARALLEL))
    first, *others = ranks(4, num_reads, shared)
    assert first >= shared.total_steps
    assert others == [0, 0, 0]
    alone = prepare_run(config(tmp_path / "alone", corpus, ParallelConfig()))
    ranks(1, train_rank, alone)
    for record, expected in zip(curve(shared.run_dir), curve(alone.run_dir), strict=True):
        assert record.pop("kind") == expected["kind"]
        assert record == pytest.approx({name: expected[name] for name in record}, rel=1e-5)


class UnpickledError(ValueError):
    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} at {where}")


class Failing(Prefetcher):
    """Reads one batch, and then fails."""

    def __init__(self, batches: Prefetcher, error: Exception) -> None:
        self._real, self._error, self.wait_s, self._is_first = batches, error, 2.5, True

    def __next__(self) -> Any:
        if not self._is_first:
            raise self._error
        self._is_first = False
        return next(self._real)

    def close(self) -> None:
        self._real.close()


def unreadable() -> Exception:
    return UnreadableError("shard 3 is gone", "shard-3.tar", 17)


def unpickled() -> Exception:
    return UnpickledError("nothing", "byte 5")


def received(run: Run, make_error: Callable[[], Exception]) -> tuple[list[Any], float, int, str]:
    """The arrays of the first batch, the time and samples after it, and the error in place of the second."""
    groups = init_groups(Layout(tp=2), "cpu", timeout_s=60.0)
    assert groups.same_samples is not None
    size = run.config.train.global_batch_size
    real = None
    if groups.rank == 0:
        real = Failing(run.data.batches(size), make_error())
    batches = SharedBatches(groups.same_samples, real, 0, size)
    batch = next(batches)
    arrays = [batch.tokens_BL, batch.targets_BL, batch.rows_BC, batch.samples_B]
    after = batches.wait_s, batches.samples_consumed
    try:
        next(batches)
    except Exception as raised:  # noqa: BLE001 (the test looks at it)
        what = f"{type(raised).__name__}: {raised}"
    batches.close()
    return arrays, *after, what


@pytest.mark.parametrize(
    ("make_error", "expected"),
    [
        (unreadable, "UnreadableError: shard 3 is gone"),
        (unpickled, "RuntimeError: UnpickledError: nothing at byte 5"),
    ],
)
def test_the_others_have_the_batch_its_wait_and_the_error_of_the_rank_that_reads(
    make_error: Callable[[], Exception], expected: str, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    run = prepare_run(config(tmp_path, corpus, ParallelConfig()))
    (arrays, *rest), (other_arrays, *other_rest) = ranks(2, received, run, make_error)
    assert rest == other_rest == [2.5, run.config.train.global_batch_size, expected]
    for array, other in zip(arrays, other_arrays, strict=True):
        assert np.array_equal(array, other)


def leader_dies(run: Run) -> None:
    """A run whose reading rank is gone after its second batch."""
    take = Prefetcher.__next__

    def take_or_die(self: Prefetcher) -> Any:
        if self.samples_consumed >= 2 * run.config.train.global_batch_size:
            os._exit(9)
        return take(self)

    Prefetcher.__next__ = take_or_die  # type: ignore[method-assign]
    Trainer(run, init_groups(run.layout, "cpu", timeout_s=60.0)).fit()


def test_no_rank_waits_for_ever_for_a_rank_that_has_died(tmp_path: Path, corpus: Path, ranks: RunOnRanks) -> None:
    run = prepare_run(config(tmp_path, corpus, ParallelConfig(tp=2)))
    with pytest.raises(RankError, match="rank 0"):
        ranks(2, leader_dies, run)
