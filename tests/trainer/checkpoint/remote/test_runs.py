"""Runs whose checkpoints are on a server: the curve of local ones, whatever requests fail and whenever ranks die."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foretrain.configs.schema import Config, ParallelConfig
from foretrain.launcher.local.run import RankError
from foretrain.launcher.train import Place as LauncherPlace
from foretrain.launcher.train import announce, prepared_run
from foretrain.trainer.checkpoint.folders import MANIFEST, folder_of
from foretrain.trainer.checkpoint.manifest import METADATA, check_content
from foretrain.trainer.checkpoint.remote.path import RemotePath
from foretrain.trainer.metrics import METRICS_FILE, read_metrics
from foretrain.trainer.run.folder import CHECKPOINTS, newest_checkpoint, step_of
from foretrain.trainer.run.rank import train_rank
from foretrain.trainer.run.setup import prepare_run
from tests.cli import called
from tests.conftest import RunOnRanks
from tests.trainer.checkpoint.remote.conftest import Bucket
from tests.trainer.checkpoint.remote.faults import Kind
from tests.trainer.checkpoint.remote.training import train_with_short_timeouts
from tests.trainer.test_resume import config, curve

pytestmark = pytest.mark.long
DP_2 = ParallelConfig(dp=2)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, corpus: Path, ranks: RunOnRanks) -> Path:
    """The folder of a run on two replicas that never stopped, with a checkpoint of steps 2, 4, 6 and 7."""
    folder = tmp_path_factory.mktemp("local")
    ranks(2, train_rank, prepare_run(config(folder, corpus, DP_2, checkpoint_every=2, keep_checkpoints=0)))
    return folder


def remote(tmp_path: Path, corpus: Path, bucket: Bucket, parallel: ParallelConfig = DP_2, **train: Any) -> Config:
    """The same run with its checkpoints on the server."""
    settings = {"checkpoint_every": 2, "keep_checkpoints": 0, **train}
    return config(tmp_path / "run", corpus, parallel, checkpoint_folder=str(bucket.folder), **settings)


def stopping(settings: Config, step: int) -> Config:
    return replace(settings, train=replace(settings.train, stop_after=step))


def steps(bucket: Bucket) -> list[int]:
    return [step_of(path) for path in folder_of(bucket.folder).complete()]


def content(checkpoint: Any) -> dict[str, bytes]:
    """The files with tensors."""
    return {path.name: path.read_bytes() for path in checkpoint.iterdir() if path.name.endswith(".distcp")}


def test_a_run_with_remote_checkpoints_has_the_bits_of_one_with_local_ones(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks, bucket: Bucket, local: Path
) -> None:
    settings = remote(tmp_path, corpus, bucket)
    with prepared_run(settings, LauncherPlace(), allow_data_change=False) as run:
        announce(run)
    ranks(2, train_rank, prepare_run(stopping(settings, 4)))
    assert steps(bucket) == [2, 4] and not (tmp_path / "run" / CHECKPOINTS).exists()
    assert newest_checkpoint(tmp_path / "run") == bucket.folder / "step-00000004"
    run = prepare_run(settings)
    assert run.start_step == 4
    ranks(2, train_rank, run)
    assert curve(tmp_path / "run") == curve(local)
    for path in folder_of(bucket.folder).complete():
        assert content(path) == content(local / CHECKPOINTS / path.name)


def test_superseded_checkpoints_are_removed_from_the_server(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks, bucket: Bucket
) -> None:
    ranks(2, train_rank, prepare_run(remote(tmp_path, corpus, bucket, checkpoint_every=1, keep_checkpoints=2)))
    assert [path.name for path in bucket.folder.iterdir()] == ["step-00000006", "step-00000007"]


def test_another_run_starts_from_a_checkpoint_on_a_server(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks, bucket: Bucket, local: Path
) -> None:
    ranks(2, train_rank, prepare_run(stopping(remote(tmp_path, corpus, bucket), 4)))
    branch = config(tmp_path / "branch", corpus, DP_2, branch_from=str(bucket.folder))
    ranks(2, train_rank, prepare_run(branch))
    of_local = [each for each in curve(local) if each.get("step", 0) > 4 and each["kind"] == "train"]
    assert [each for each in curve(tmp_path / "branch") if each["kind"] == "train"] == of_local
    init = config(tmp_path / "init", corpus, DP_2, init_from=str(bucket.folder / "step-00000002"))
    assert prepare_run(init).init == bucket.folder / "step-00000002"
    (bucket.folder / "step-00000002" / MANIFEST).unlink()
    with pytest.raises(ValueError, match=r"train\.init_from = s3://.*step-00000002 is not complete"):
        prepare_run(init)
    ended = called("generate", str(bucket.folder), "--num-tokens", "3", cwd=tmp_path)
    assert ended.status == 0, ended.err
    ended = called("export", str(bucket.folder), "out", "--to", "hf", cwd=tmp_path)
    assert ended.status == 0, ended.err
    assert (tmp_path / "out/model.safetensors").is_file()


@pytest.mark.parametrize("kind", ["error", "reset", "stall"])
def test_a_run_survives_requests_that_fail(
    kind: Kind, tmp_path: Path, corpus: Path, ranks: RunOnRanks, bucket: Bucket, local: Path
) -> None:
    """Every fifth request fails; every hundredth stalls, since a rank waits seconds for it."""
    numbers, every = iter(range(10**9)), 100 if kind == "stall" else 5
    fault = bucket.proxy.fail(kind, lambda request: next(numbers) % every == 0, times=10**9)
    settings = remote(tmp_path, corpus, bucket, checkpoint_every=3)
    ranks(2, train_with_short_timeouts, prepare_run(stopping(settings, 3)))
    ranks(2, train_with_short_timeouts, prepare_run(settings))
    assert fault.num_met >= 1
    assert steps(bucket) == [3, 6, 7]
    assert curve(tmp_path / "run") == curve(local)


def test_a_run_survives_a_checkpoint_that_the_server_does_not_take(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks, bucket: Bucket
) -> None:
    """The data of step 4 cannot be written, and what was written of it is removed by the next save."""
    bucket.proxy.fail("error", lambda request: request.method == "PUT" and "4/__1_0" in request.path, times=10**9)
    ranks(2, train_rank, prepare_run(remote(tmp_path, corpus, bucket)))
    assert [path.name for path in bucket.folder.iterdir()] == ["step-00000002", "step-00000006", "step-00000007"]
    (failed,) = [each for each in read_metrics(tmp_path / "run" / METRICS_FILE) if each["kind"] == "checkpoint_failed"]
    assert "step-00000004 cannot be written" in failed["error"]
    assert "check the server, the network, and the rights there" in failed["error"]


FILES = ("__0_0.distcp", "__1_0.distcp", "__1.metadata", ".metadata", "run.json", "tokenizer.json", MANIFEST)


@pytest.mark.parametrize("name", FILES)
def test_a_run_that_is_killed_during_an_upload_resumes_from_the_checkpoint_before(
    name: str, tmp_path: Path, corpus: Path, ranks: RunOnRanks, bucket: Bucket, local: Path
) -> None:
    """A rank is killed when it sends a file of step 4, from the first to the last one."""
    settings = remote(tmp_path, corpus, bucket)
    bucket.proxy.fail(
        "kill", lambda request: request.method == "PUT" and request.path.endswith(f"/step-00000004/{name}")
    )
    with pytest.raises(RankError):
        ranks(2, train_rank, prepare_run(settings))
    assert steps(bucket) == [2]
    run = prepare_run(settings)
    assert run.start_step == 2
    ranks(2, train_rank, run)
    assert curve(tmp_path / "run") == curve(local)
    assert steps(bucket) == [2, 4, 6, 7] and folder_of(bucket.folder).partial() == []
    for path in folder_of(bucket.folder).complete():
        check_content(path)


DAMAGES: Sequence[str] = ("__1_0.distcp", ".metadata", "run.json", MANIFEST)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_remote_checkpoint_is_set_aside_and_the_run_resumes_from_the_one_before(
    name: str, tmp_path: Path, corpus: Path, ranks: RunOnRanks, bucket: Bucket, local: Path
) -> None:
    settings = remote(tmp_path, corpus, bucket)
    ranks(2, train_rank, prepare_run(stopping(settings, 4)))
    flip(bucket.folder / "step-00000004" / name)
    ranks(2, train_rank, prepare_run(settings))
    assert curve(tmp_path / "run") == curve(local)
    assert steps(bucket) == [2, 4, 6, 7]
    check_content(bucket.folder / "step-00000004")  # it was saved again, without a file of the damaged one
    assert not (bucket.folder / "step-00000004" / f"damaged-{MANIFEST}").exists()


def test_replicas_that_share_what_they_read_continue_the_curve_after_a_kill_and_after_damage(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks, bucket: Bucket
) -> None:
    """Under ZeRO 0 both need all of a checkpoint: the server sends each byte once. A rank is killed while it reads."""
    parallel = ParallelConfig(dp=2, zero_stage=0)
    calm = config(tmp_path / "calm", corpus, parallel, checkpoint_every=2, keep_checkpoints=0)
    ranks(2, train_rank, prepare_run(calm))
    settings = remote(tmp_path, corpus, bucket, parallel)
    ranks(2, train_rank, prepare_run(stopping(settings, 4)))
    run = prepare_run(settings)
    bucket.proxy.fail("kill", lambda request: request.method == "GET" and request.path.endswith("4/__1_0.distcp"))
    with pytest.raises(RankError):
        ranks(2, train_rank, run)
    bucket.proxy.reset()
    ranks(2, train_rank, run)
    assert curve(tmp_path / "run") == curve(tmp_path / "calm")
    checkpoint = bucket.folder / "step-00000004"
    for name in ("__0_0.distcp", "__1_0.distcp", METADATA):
        sent = {path: num_bytes for path, num_bytes in bucket.proxy.sent.items() if path.endswith(f"4/{name}")}
        assert [*sent.values()] == [(checkpoint / name).stat().st_size]
    for step in (6, 7):
        flip(bucket.folder / f"step-{step:08d}" / "__1_0.distcp")
    ranks(2, train_rank, prepare_run(settings))
    assert curve(tmp_path / "run") == curve(tmp_path / "calm")


def flip(file: RemotePath) -> None:
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    file.write_bytes(bytes(damaged))
