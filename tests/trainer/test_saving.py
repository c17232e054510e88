"""Nothing is lost silently: when checkpoints are written, what they hold, and what is checked before the first step."""

import re
import resource
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foretrain.configs.data import DataConfig
from foretrain.configs.schema import Config, ModelConfig, ParallelConfig, TrainConfig
from foretrain.data_pipeline.corpus.manifest import TOKENIZER
from foretrain.data_pipeline.errors import CorpusError
from foretrain.launcher.local.run import RankError
from foretrain.launcher.train import Place, prepared_run
from foretrain.parallel.engine import Engine
from foretrain.trainer.checkpoint.space import check_room, checkpoint_bytes
from foretrain.trainer.metrics import METRICS_FILE, read_metrics
from foretrain.trainer.run.folder import CHECKPOINTS
from foretrain.trainer.run.rank import train_rank
from foretrain.trainer.run.setup import prepare_run
from foretrain.trainer.trainer import Trainer
from tests.conftest import RunOnRanks
from tests.trainer.checkpoint.made import make_checkpoint
from tests.trainer.steps import before_each_step

NUM_STEPS = 3
FULL = "File too large"
"""What the file system says where a file cannot grow."""


def config(run_dir: Path, corpus: Path, dp: int = 1, **train: Any) -> Config:
    return Config(
        run_dir=str(run_dir),
        model=ModelConfig(num_layers=1, d_model=32, num_heads=2, d_ff=64, seq_len=32),
        data=DataConfig(path=str(corpus)),
        parallel=ParallelConfig(dp=dp),
        train=TrainConfig(
            num_tokens=NUM_STEPS * 4 * 32, global_batch_size=4, eval_samples=0, keep_checkpoints=0, **train
        ),
    )


def saved_steps(run_dir: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (run_dir / CHECKPOINTS).iterdir())


@pytest.mark.parametrize(
    ("minutes", "steps"), [(1e-9, [1, 2, 3]), (30.0, [3]), pytest.param(0.0, [3], marks=pytest.mark.long)]
)
def test_a_checkpoint_is_written_when_its_minutes_have_passed(
    minutes: float, steps: list[int], tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    ranks(1, train_rank, prepare_run(config(tmp_path, corpus, checkpoint_minutes=minutes)))
    assert saved_steps(tmp_path) == steps


def with_a_fast_clock_on_rank_1(run: Any) -> None:
    Trainer.is_checkpoint_due = property(lambda self: self.groups.rank == 1)  # type: ignore[assignment,method-assign]
    train_rank(run)


def test_all_ranks_write_a_checkpoint_if_the_clock_of_one_asks_for_it(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    ranks(2, with_a_fast_clock_on_rank_1, prepare_run(config(tmp_path, corpus, dp=2)))
    assert saved_steps(tmp_path) == [1, 2, 3]


@pytest.fixture
def own_corpus(tmp_path: Path, corpus: Path) -> Path:
    """A copy of the corpus, to be damaged."""
    return Path(shutil.copytree(corpus, tmp_path / "corpus"))


def test_a_missing_tokenizer_is_refused_before_the_first_step(tmp_path: Path, own_corpus: Path) -> None:
    (own_corpus / TOKENIZER).unlink()
    with pytest.raises(CorpusError, match=r"tokenizer\.json is missing: bring it back"):
        prepare_run(config(tmp_path / "run", own_corpus))


def test_a_damaged_tokenizer_is_refused_before_the_first_step(tmp_path: Path, own_corpus: Path) -> None:
    content = bytearray((own_corpus / TOKENIZER).read_bytes())
    content[len(content) // 2] ^= 1
    (own_corpus / TOKENIZER).write_bytes(content)
    with pytest.raises(CorpusError, match=r"tokenizer\.json has other bytes than were written"):
        prepare_run(config(tmp_path / "run", own_corpus))


def losing_its_tokenizer(run: Any, tokenizer: Path) -> None:
    before_each_step(lambda engine, number: tokenizer.unlink(missing_ok=True))
    train_rank(run)


def test_a_tokenizer_that_goes_missing_during_a_run_is_in_its_checkpoints(
    tmp_path: Path, corpus: Path, own_corpus: Path, ranks: RunOnRanks
) -> None:
    ranks(1, losing_its_tokenizer, prepare_run(config(tmp_path / "run", own_corpus)), own_corpus / TOKENIZER)
    assert not (own_corpus / TOKENIZER).exists()
    saved = tmp_path / "run" / CHECKPOINTS / f"step-{NUM_STEPS:08}" / TOKENIZER
    assert saved.read_bytes() == (corpus / TOKENIZER).read_bytes()


def test_stop_after_a_step_that_is_done_trains_no_more(tmp_path: Path, corpus: Path, ranks: RunOnRanks) -> None:
    stopped = config(tmp_path, corpus, stop_after=2)
    ranks(1, train_rank, prepare_run(stopped))
    for stop_after, has_stopped in ((1, True), (2, True), (3, False), (None, False)):
        run = prepare_run(replace(stopped, train=replace(stopped.train, stop_after=stop_after)))
        assert (run.start_step, run.has_stopped) == (2, has_stopped)
    assert prepare_run(stopped).outlook.endswith(
        "2 of 3 steps are done, and train.stop_after = 2 asks for no more: leave it out, or raise it, to continue"
    )


def with_an_update_to_nan(run: Any, at_step: int, on_rank: int) -> None:
    """Train, but after the update of a step, whose loss is finite, a weight that one rank keeps is NaN."""
    step, number = Engine.train_step, 0

    def train_step(self: Engine, *batch: Any, **options: Any) -> Any:
        nonlocal number
        number += 1
        result = step(self, *batch, **options)
        self.zero.await_weights()
        if number == at_step and self.groups.rank == on_rank:
            parameter = next(parameter for parameter in self.zero.module.parameters() if self.zero.piece(parameter))
            piece = self.zero.piece(parameter)
            assert piece is not None
            piece.states["weight"][0] = float("nan")
        return result

    Engine.train_step = train_step  # type: ignore[method-assign]
    train_rank(run)


def test_weights_that_are_not_finite_on_any_rank_are_never_saved(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    run = prepare_run(config(tmp_path, corpus, dp=2, checkpoint_minutes=1e-9, check_every=0))
    with pytest.raises(
        RankError,
        match=r"step-00000003 cannot .* the weights of .* are not finite. .* before are kept",
    ):
        ranks(2, with_an_update_to_nan, run, NUM_STEPS, 1)
    assert saved_steps(tmp_path) == [1, 2]


def with_a_full_disk(run: Any, first: int, last: int) -> None:
    """Train, but from step `first` to step `last` no file can grow beyond 20 kB."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(engine: Engine, number: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000 if first <= number <= last else hard, hard))

    before_each_step(limit)
    train_rank(run)


@pytest.mark.parametrize("dp", [pytest.param(1, marks=pytest.mark.long), 2])
def test_a_run_survives_a_checkpoint_that_cannot_be_written(
    dp: int, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    saves = {"checkpoint_every": 1, "checkpoint_in_background": False}
    ranks(dp, with_a_full_disk, prepare_run(config(tmp_path, corpus, dp, **saves)), 1, 2)
    assert [path.name for path in (tmp_path / CHECKPOINTS).iterdir()] == ["step-00000003"]
    failed = [record for record in read_metrics(tmp_path / METRICS_FILE) if record["kind"] == "checkpoint_failed"]
    assert [record["step"] for record in failed] == [1, 2]
    for record in failed:
        assert re.search(rf"cannot be written: .*{FULL}.*GiB were free", record["error"])


def test_a_run_survives_a_checkpoint_that_cannot_be_written_while_it_trains(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    ranks(2, with_a_full_disk, prepare_run(config(tmp_path, corpus, 2, checkpoint_every=1)), 1, 2)
    assert saved_steps(tmp_path)[-1] == 3
    assert not list((tmp_path / CHECKPOINTS).glob("partial-*"))
    failed = [record for record in read_metrics(tmp_path / METRICS_FILE) if record["kind"] == "checkpoint_failed"]
    assert re.search(rf"step-00000001 cannot be written: .*{FULL}.*GiB were free", failed[0]["error"])


@pytest.mark.parametrize("dp", [pytest.param(1, marks=pytest.mark.long), 2])
def test_a_last_checkpoint_that_cannot_be_written_is_an_error_and_the_one_before_is_sound(
    dp: int, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    run = prepare_run(config(tmp_path, corpus, dp, checkpoint_every=1, checkpoint_in_background=False))
    with pytest.raises(RankError, match=rf"SaveError: .*step-00000003 cannot be written: .*{FULL}.*free some"):
        ranks(dp, with_a_full_disk, run, 3, 3)
    assert saved_steps(tmp_path) == [1, 2]
    resumed = prepare_run(config(tmp_path, corpus, dp))
    assert resumed.start_step == 2
    ranks(dp, train_rank, resumed)
    assert saved_steps(tmp_path) == [1, 2, 3]


def test_a_disk_without_room_for_a_checkpoint_is_refused_and_little_room_is_a_warning(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = config(tmp_path / "run", corpus)
    wanted.train.keep_checkpoints = 2
    size = checkpoint_bytes(prepare_run(wanted).config)

    def start_with_room_for(num_bytes: int) -> str:
        """Prepare to train, and return what is warned of."""
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=num_bytes))
        caplog.clear()
        with prepared_run(wanted, Place(), allow_data_change=False):
            return caplog.text

    with pytest.raises(
        ValueError, match=r"a checkpoint has 0\.000 GiB, and .*/run/checkpoints has 0\.000 GiB free: free some"
    ):
        start_with_room_for(size - 1)
    assert "the run needs room for 3 more checkpoints of" in start_with_room_for(3 * size - 1)
    assert start_with_room_for(3 * size) == ""
    planned = prepare_run(wanted).config  # a run can be planned on another disk
    for step in (1, 2):
        make_checkpoint(tmp_path / "run", step)
    start_with = SimpleNamespace(free=size)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: start_with)
    assert check_room(tmp_path / "run", planned) is None  # those that are there need no more room


def test_the_room_that_a_checkpoint_needs_is_that_of_its_files(tmp_path: Path, corpus: Path, ranks: RunOnRanks) -> None:
    run = prepare_run(config(tmp_path, corpus))
    ranks(1, train_rank, run)
    files = (tmp_path / CHECKPOINTS / f"step-{NUM_STEPS:08}").glob("*.distcp")
    assert sum(file.stat().st_size for file in files) == pytest.approx(checkpoint_bytes(run.config), rel=0.2)
