"""Faults that pass, of servers and file systems: the job is started again, and only what cannot change ends it."""

import errno
import os
import pickle
import shutil
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from foretrain import records
from foretrain.configs.data import CacheConfig, DataConfig
from foretrain.configs.schema import Config, ModelConfig, ParallelConfig, TrainConfig
from foretrain.data_pipeline.corpus.shards import open_corpus
from foretrain.data_pipeline.errors import CorpusError, UnreachableError, UnreadableError
from foretrain.data_pipeline.stream import batches
from foretrain.data_pipeline.stream.batches import Prefetcher, StopAskedError
from foretrain.faults import is_full, is_passing
from foretrain.launcher import restart, train
from foretrain.launcher.local import ranks as ranks_of_this_machine
from foretrain.launcher.local.run import RankError
from foretrain.trainer.checkpoint.remote.requests import RemoteError
from foretrain.trainer.evaluation import HeldOutError
from foretrain.trainer.run import stopping
from foretrain.trainer.run.exit_status import EXIT_CONFIG, EXIT_HANG, EXIT_RESUME
from foretrain.trainer.run.folder import CONFIG_FILE, newest_checkpoint
from foretrain.trainer.run.rank import train_rank
from foretrain.trainer.run.setup import prepare_run
from tests.cli import CONFIG, called
from tests.conftest import RunOnRanks
from tests.data_pipeline.corpus.http_server import Fault, serving
from tests.trainer.checkpoint.made import make_checkpoint
from tests.trainer.steps import before_each_step

AS_A_RANK = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
NO_RETRIES = ("data.cache.retries=0", "data.cache.timeout_s=2", "data.cache.dir=cache")


@pytest.fixture
def folder(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tiny.yaml").write_text(CONFIG, encoding="utf-8")
    shutil.copytree(corpus, tmp_path / "corpus")
    monkeypatch.setattr(train, "catch_signals", stopping.StopRequest)
    return tmp_path


def test_a_data_server_that_is_down_when_a_job_starts_again_does_not_end_it(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/corpus"
    ended = called("train", "tiny.yaml", f"data.path={url}", *NO_RETRIES, cwd=folder, **AS_A_RANK)
    assert ended.status == EXIT_RESUME
    assert "check the server and the network, then run the same command again" in ended.err


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault(status=503), EXIT_RESUME),
        (Fault(reset_after=10), EXIT_RESUME),
        (Fault(status=404), EXIT_CONFIG),
        (Fault(flip=True), EXIT_CONFIG),
    ],
)
def test_only_what_cannot_change_ends_a_job(fault: Fault, status: int, folder: Path) -> None:
    with serving(folder / "corpus") as server:
        server.always["train.index.npy"] = fault
        ended = called("train", "tiny.yaml", f"data.path={server.url}", *NO_RETRIES, cwd=folder, **AS_A_RANK)
    assert ended.status == status, ended.err


def test_a_file_system_that_fails_when_a_job_starts_again_does_not_end_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(*arguments: object, **options: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle", "runs/tiny")

    monkeypatch.setattr(train, "prepare_run", stale)
    ended = called("train", "tiny.yaml", cwd=folder, **AS_A_RANK)
    assert ended.status == EXIT_RESUME
    assert ended.err.startswith("error: runs/tiny: Stale file handle: the file system or the network has failed")


def test_a_log_that_cannot_be_opened_now_asks_for_another_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(*arguments: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle", "logs/rank-001.log")

    monkeypatch.setattr(ranks_of_this_machine, "open_log", stale)
    ended = called("train", "tiny.yaml", cwd=folder)
    assert ended.status == EXIT_HANG
    assert "logs/rank-001.log': the run ends, to be started again from its last checkpoint" in ended.err


def failing_in_step(run: Any, number: int) -> None:
    def fail(engine: object, step: int) -> None:
        if step == number:
            raise OSError(errno.EIO, "Input/output error")

    before_each_step(fail)
    train_rank(run)


def test_an_io_error_in_a_step_ends_the_run_to_be_started_again(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks, capfd: pytest.CaptureFixture[str]
) -> None:
    config = Config(
        run_dir=str(tmp_path),
        model=ModelConfig(num_layers=1, d_model=32, num_heads=2, d_ff=64, seq_len=32),
        data=DataConfig(path=str(corpus)),
        parallel=ParallelConfig(dp=1),
        train=TrainConfig(num_tokens=3 * 4 * 32, global_batch_size=4, eval_samples=0),
    )
    with pytest.raises(RankError, match=f"rank 0 exited with status {EXIT_HANG}"):
        ranks(1, failing_in_step, prepare_run(config), 2)
    assert "Input/output error: the run ends, to be started again from its last checkpoint" in capfd.readouterr().err


class Stalled:
    """Batches of a server that does not answer until `back` is set."""

    global_batch_size = 4

    def __init__(self) -> None:
        self.back = threading.Event()

    def batch(self, samples_consumed: int) -> None:
        self.back.wait()


def test_a_process_that_waits_for_data_sees_that_it_must_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"POLL_S": 0.01, "STOP_WAIT_S": 0.05, "CLOSE_WAIT_S": 0.05}.items():
        monkeypatch.setattr(batches, name, seconds)
    stalled, asked = Stalled(), threading.Event()
    prefetcher = Prefetcher(stalled, 0, None, 1, asked.is_set)  # type: ignore[arg-type]
    threading.Timer(0.05, asked.set).start()
    with pytest.raises(StopAskedError, match="continues from its last checkpoint"):
        next(prefetcher)
    prefetcher.close()  # ends although the server still does not answer
    stalled.back.set()


def test_faults_that_pass_are_those_of_networks_and_file_systems() -> None:
    passing: list[Exception] = [
        OSError(errno.EIO, ""),
        OSError(errno.ESTALE, ""),
        ConnectionResetError(errno.ECONNRESET, ""),
    ]
    passing += [UnreachableError("", "", 0), RemoteError("s3://bucket", "503")]
    for error in passing:
        assert is_passing(error), error
        wrapped = ValueError("wrapped")
        wrapped.__cause__ = error
        assert is_passing(wrapped)
    for lasting in (
        OSError(errno.ENOSPC, ""),
        PermissionError(errno.EACCES, ""),
        CorpusError(""),
    ):
        assert not is_passing(lasting), lasting


def test_a_full_disk_is_one_also_in_an_error_that_was_raised_because_of_it() -> None:
    wrapped = CorpusError("wrapped")
    wrapped.__cause__ = OSError(errno.EDQUOT, "Disk quota exceeded")
    assert is_full(wrapped) and not is_passing(wrapped)
    assert not is_full(CorpusError("")) and not is_full(OSError(errno.EIO, ""))


@pytest.mark.parametrize(
    "error",
    [
        UnreachableError("the server is gone", "shard-0.tar", 7),
        UnreadableError("the disk is gone", "shard-0.tar", 7, is_passing=True),
        UnreadableError("the shard is damaged", "shard-0.tar", 7),
        HeldOutError("the disk is gone", is_passing=True),
        UnreachableError("the cache is full", "shard-0.tar", 7, is_passing=False, is_full=True),
        HeldOutError("the cache is full", is_passing=False, is_full=True),
    ],
)
def test_a_fault_is_of_the_same_kind_on_every_rank_to_which_it_is_sent(error: Exception) -> None:
    sent = pickle.loads(pickle.dumps(error))
    kinds = [(type(each), str(each), is_passing(each), is_full(each)) for each in (sent, error)]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_no_other_sample_replaces_one_that_the_disk_of_the_cache_cannot_hold_now(
    number: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(folder / "corpus") as server:
        stream = open_corpus(server.url, "train", CacheConfig(dir=str(folder / "cache"), retries=0))

        def fail(descriptor: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(UnreachableError, match=os.strerror(number)) as raised:
            stream.read(0, 10)
    assert (is_full(raised.value), is_passing(raised.value)) == (number == errno.ENOSPC, number == errno.EIO)


def test_a_config_that_cannot_be_read_now_does_not_hide_the_checkpoints_of_its_run(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).symlink_to(CONFIG_FILE)  # a loop: to read it is an OSError
    with pytest.raises(OSError, match="symbolic links"):
        newest_checkpoint(tmp_path)


def test_a_record_of_starts_that_cannot_be_written_is_waited_for_and_then_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restart, "PAUSES_S", (0.0,) * 3)
    failing = [OSError(errno.EIO, "Input/output error", "starts.jsonl") for _ in range(3)]

    def append(path: Path, entry: dict[str, Any]) -> None:
        if failing:
            raise failing.pop()

    monkeypatch.setattr(records, "append", append)
    assert restart.record_start(tmp_path, "7", 2) is None
    failing = [OSError(errno.EIO, "Input/output error", "starts.jsonl") for _ in range(4)]
    refusal = restart.record_start(tmp_path, "7", 2)
    assert refusal is not None and "no start can be recorded ([Errno 5] Input/output error: 'starts.jsonl')" in refusal
    failing = [OSError(errno.ENOSPC, "No space left on device", "starts.jsonl")]
    assert "free some space" in (restart.record_start(tmp_path, "7", 2) or "")


def test_a_job_pauses_longer_after_each_start_that_met_a_fault_and_made_no_progress(tmp_path: Path) -> None:
    pauses = []
    for _ in range(4):
        assert restart.record_start(tmp_path, "7", 9) is None
        pauses.append(restart.pause_s(tmp_path, "7", EXIT_HANG))
    assert pauses == [2.0, 30.0, 120.0, 120.0]
    assert restart.pause_s(tmp_path, "7", 137) == 0.0, "a rank that was killed says nothing of files"
    make_checkpoint(tmp_path, 5)
    assert restart.pause_s(tmp_path, "7", EXIT_HANG) == 0.0
    (tmp_path / restart.STARTS_FILE).unlink()
    (tmp_path / restart.STARTS_FILE).symlink_to(restart.STARTS_FILE)  # a loop: to read it is an OSError
    assert restart.pause_s(tmp_path, "7", EXIT_RESUME) == 120.0


def test_a_job_waits_for_a_lock_longer_than_a_server_keeps_that_of_a_dead_node() -> None:
    assert train.LOCK_WAIT_S > 2 * 60
