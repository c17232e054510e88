"""Checkpoints in runs: written while training continues, found damaged and set aside, kept as long as asked for."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foretrain.configs.schema import Config, ParallelConfig
from foretrain.launcher.local.run import RankError
from foretrain.trainer.checkpoint.checksums import ChecksumWriter
from foretrain.trainer.checkpoint.inspect import complete
from foretrain.trainer.checkpoint.record import CheckpointRecord
from foretrain.trainer.metrics import METRICS_FILE, read_metrics
from foretrain.trainer.run.folder import CHECKPOINTS, step_of
from foretrain.trainer.run.rank import train_rank
from foretrain.trainer.run.setup import prepare_run
from foretrain.trainer.text.inference import load_model
from foretrain.trainer.trainer import Trainer
from tests.conftest import RunOnRanks
from tests.trainer.steps import before_each_step
from tests.trainer.test_resume import config, curve

DP_2 = ParallelConfig(dp=2)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, corpus: Path, ranks: RunOnRanks) -> list[dict[str, Any]]:
    """The curve of a run on two replicas that never stopped."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    ranks(2, train_rank, prepare_run(config(folder, corpus, DP_2)))
    return curve(folder)


def steps(run_dir: Path) -> list[int]:
    """The steps of the complete checkpoints."""
    return [step_of(path) for path in complete(run_dir)]


def names(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / CHECKPOINTS).iterdir())


def with_a_slow_disk_on_rank_1(run: Any, until_step: int) -> list[tuple[int, int]]:
    """Train, but no file of rank 1 is complete before step `until_step`. Returns (step, checkpoint) of each hook."""
    found, goes, at = [], threading.Event(), [0]
    close = ChecksumWriter.close

    def slow_close(self: ChecksumWriter) -> None:
        if trainers[0].groups.rank == 1:
            assert goes.wait(60)
        close(self)

    def on_step(engine: Any, number: int) -> None:
        at[0] = number
        if number >= until_step:
            goes.set()

    ChecksumWriter.close = slow_close  # type: ignore[method-assign]
    before_each_step(on_step)
    trainers: list[Trainer] = []
    call = Trainer.call

    def noting_call(self: Trainer, hook: str, *args: Any) -> None:
        trainers[:] = [self]
        if hook == "on_checkpoint":
            found.append((at[0], step_of(args[0])))
        call(self, hook, *args)

    Trainer.call = noting_call  # type: ignore[method-assign]
    train_rank(run)
    return found


def test_training_continues_while_a_checkpoint_is_written(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks, uninterrupted: list[dict[str, Any]]
) -> None:
    settings = config(tmp_path / "run", corpus, DP_2, checkpoint_every=2, keep_checkpoints=0)
    found = ranks(2, with_a_slow_disk_on_rank_1, prepare_run(stopping(settings, 4)), 4)
    assert found[0] == found[1], "ranks complete a checkpoint at different steps"
    assert [checkpoint for _, checkpoint in found[0]] == [2, 4]
    assert found[0][0][0] >= 4, "the checkpoint of step 2 was complete before step 4 began"
    for path in complete(tmp_path / "run")[1:]:
        path.rename(path.with_name(f"other-{path.name}"))
    ranks(2, train_rank, prepare_run(settings))  # from step 2, whose state has changed since it was copied
    assert curve(tmp_path / "run") == uninterrupted


def stopping(settings: Config, step: int) -> Config:
    """The same run, which stops after `step`."""
    return replace(settings, train=replace(settings.train, stop_after=step))


@pytest.mark.long
def test_a_second_checkpoint_waits_for_the_first_and_says_so(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks, capfd: pytest.CaptureFixture[str]
) -> None:
    run = prepare_run(config(tmp_path, corpus, DP_2, checkpoint_every=1, keep_checkpoints=0, stop_after=3))
    ranks(2, with_slow_writes, run)
    assert "step 2: waiting for the checkpoint before to be written" in capfd.readouterr().out
    assert steps(tmp_path) == [1, 2, 3]


def with_slow_writes(run: Any) -> None:
    """Train, with files that take half a second each."""
    close = ChecksumWriter.close

    def slow_close(self: ChecksumWriter) -> None:
        if not self.closed:
            threading.Event().wait(0.5)
        close(self)

    ChecksumWriter.close = slow_close  # type: ignore[method-assign]
    train_rank(run)


def flip_a_bit(path: Path, number: int) -> None:
    content = bytearray(path.read_bytes())
    content[number // 8 % len(content)] ^= 1 << number % 8
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit of the data of rank 1": lambda path: flip_a_bit(path / "__1_0.distcp", 40_000),
    "the metadata": lambda path: flip_a_bit(path / ".metadata", 4_000),
    "the record": lambda path: flip_a_bit(path / "run.json", 100),
    "the list of checksums": lambda path: flip_a_bit(path / "checksums.json", 1_000),
    "a missing file": lambda path: (path / "__1_0.distcp").unlink(),
    "a truncated file": lambda path: (path / "__0_0.distcp").write_bytes((path / "__0_0.distcp").read_bytes()[:-100]),
}


QUICK = "a bit of the data of rank 1"


@pytest.mark.parametrize(
    "name", [QUICK, *(pytest.param(name, marks=pytest.mark.long) for name in DAMAGES if name != QUICK)]
)
def test_a_damaged_checkpoint_is_set_aside_and_the_run_resumes_from_the_one_before(
    name: str, tmp_path: Path, corpus: Path, ranks: RunOnRanks, uninterrupted: list[dict[str, Any]]
) -> None:
    settings = config(tmp_path / "run", corpus, DP_2, checkpoint_every=2, keep_checkpoints=0)
    ranks(2, train_rank, prepare_run(stopping(settings, 4)))
    DAMAGES[name](tmp_path / "run" / CHECKPOINTS / "step-00000004")
    ranks(2, train_rank, prepare_run(settings))
    assert curve(tmp_path / "run") == uninterrupted
    assert "damaged-step-00000004" in names(tmp_path / "run")
    assert steps(tmp_path / "run") == [2, 4, 6, 7]


def test_a_run_without_a_sound_checkpoint_is_refused_and_loses_nothing(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    settings = config(tmp_path, corpus, ParallelConfig())
    ranks(1, train_rank, prepare_run(stopping(settings, 2)))
    flip_a_bit(tmp_path / CHECKPOINTS / "step-00000002/__0_0.distcp", 40_000)
    before = (tmp_path / METRICS_FILE).read_bytes()
    with pytest.raises(ValueError, match="are not those that were written"):
        load_model(tmp_path)
    with pytest.raises(RankError, match=r"bytes 0 to .*No sound checkpoint is left in .*delete the folder"):
        ranks(1, train_rank, prepare_run(settings))
    assert names(tmp_path) == ["damaged-step-00000002"]
    assert (tmp_path / METRICS_FILE).read_bytes() == before


@pytest.mark.long
def test_the_best_checkpoints_and_those_of_some_steps_are_kept(tmp_path: Path, corpus: Path, ranks: RunOnRanks) -> None:
    kept = {"keep_checkpoints": 1, "keep_every": 3, "keep_best": 1}
    settings = config(tmp_path, corpus, ParallelConfig(), checkpoint_every=1, eval_every=2, **kept)
    ranks(1, train_rank, prepare_run(settings))
    evaluations = (each for each in read_metrics(tmp_path / METRICS_FILE) if each["kind"] == "eval")
    losses = {each["step"]: each["val_loss"] for each in evaluations}
    best = min(losses, key=lambda step: losses[step])
    assert steps(tmp_path) == sorted({3, 6, 7, best})
    for path in complete(tmp_path):
        assert CheckpointRecord.read(path).val_loss == losses.get(step_of(path))
