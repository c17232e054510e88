"""Checkpoints in a folder of a server: which are complete, damage, removal, and the commands that show them."""

from pathlib import Path

import pytest

from foretrain.configs.schema import Config, TrainConfig
from foretrain.trainer.checkpoint import inspect
from foretrain.trainer.checkpoint.checksums import DamagedError
from foretrain.trainer.checkpoint.folders import MANIFEST, folder_of
from foretrain.trainer.checkpoint.inspect import Soundness, check
from foretrain.trainer.checkpoint.manifest import set_aside
from foretrain.trainer.checkpoint.prune import prune
from foretrain.trainer.checkpoint.remote.path import RemotePath
from foretrain.trainer.checkpoint.remote.requests import RemoteError
from foretrain.trainer.checkpoint.space import check_room
from tests.cli import assert_refused, called
from tests.trainer.checkpoint.made import DATA, DATA_BYTES, damage, make_checkpoint
from tests.trainer.checkpoint.remote.conftest import Bucket
from tests.trainer.checkpoint.remote.faults import Request, nth


def upload(folder: RemotePath, tmp_path: Path, *steps: int) -> list[RemotePath]:
    """Sound checkpoints of these steps on the server."""
    for step in steps:
        made = make_checkpoint(tmp_path / "made", step)
        for file in made.iterdir():
            (folder / made.name / file.name).write_bytes(file.read_bytes())
    return [folder / f"step-{step:08d}" for step in steps]


def names(folder: RemotePath) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def test_a_checkpoint_without_its_list_of_checksums_is_invisible(bucket: Bucket, tmp_path: Path) -> None:
    paths = upload(bucket.folder, tmp_path, 5, 10, 100_000_000)
    (paths[2] / MANIFEST).unlink()
    folder = folder_of(bucket.folder)
    assert folder.complete() == paths[:2] and folder.newest() == paths[1]
    assert folder.partial() == [paths[2]]
    folder.remove(paths[2])
    assert folder.partial() == [] and names(bucket.folder) == [paths[0].name, paths[1].name]
    assert folder_of(bucket.folder / "nothing").complete() == []


def test_a_checkpoint_is_incomplete_from_the_first_moment_of_its_removal(bucket: Bucket, tmp_path: Path) -> None:
    (path,) = upload(bucket.folder, tmp_path, 5)
    bucket.proxy.reset()
    bucket.proxy.fail("error", lambda request: "?delete" in request.path, times=1)
    folder_of(bucket.folder).remove(path)
    first = next(request for request in bucket.proxy.requests if request.method in ("DELETE", "POST"))
    assert first.method == "DELETE" and first.path.endswith(f"{path.name}/{MANIFEST}")
    assert not path.exists()


def test_a_damaged_checkpoint_is_set_aside_and_its_data_stay_where_they_are(bucket: Bucket, tmp_path: Path) -> None:
    path, other = upload(bucket.folder, tmp_path, 5, 10)
    folder, files = folder_of(bucket.folder), names(path)
    bucket.proxy.reset()
    assert f"is kept as {path.name}/damaged-{MANIFEST}, and the one" in set_aside(path, DamagedError("x"))
    written = [request.path for request in bucket.proxy.requests if request.method == "PUT"]
    assert [each.endswith(f"{path.name}/damaged-{MANIFEST}") for each in written] == [True]
    assert names(path) == sorted(f"damaged-{name}" if name == MANIFEST else name for name in files)
    assert folder.complete() == [other] and folder.damaged() == [path] and folder.partial() == []
    assert check(path).soundness is Soundness.DAMAGED
    assert "the checkpoint is damaged" in set_aside(path, DamagedError("x"))  # another process has done it
    ended = called("checkpoint", "ls", str(bucket.folder), cwd=tmp_path)
    assert f"{path.name}: a checkpoint that was found damaged" in ended.out


def test_a_damaged_checkpoint_is_removed_by_prune_if_asked_and_before_its_step_is_saved_again(
    bucket: Bucket, tmp_path: Path
) -> None:
    folder, run_dir = folder_of(bucket.folder), tmp_path / "run"
    path = folder.path(5)
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text(f"train: {{checkpoint_folder: {bucket.folder}}}\n")
    for number, remove in enumerate([lambda: prune(run_dir, keep=1, with_damaged=True), lambda: folder.clear(path)]):
        _, other = upload(bucket.folder, tmp_path / str(number), 5, 10)
        set_aside(path, DamagedError("x"))
        prune(run_dir, keep=1)
        folder.clear(other)
        assert folder.damaged() == [path]
        remove()
        assert names(bucket.folder) == [other.name]


def is_data(request: Request) -> bool:
    return request.method == "GET" and request.path.endswith(DATA)


@pytest.mark.long
def test_other_bytes_than_were_written_are_damage_only_if_they_are_sent_again_and_again(
    bucket: Bucket, tmp_path: Path
) -> None:
    (path,) = upload(bucket.folder, tmp_path, 5)
    for meets in (is_data, lambda request: request.path.endswith(MANIFEST)):
        for number in range(4):
            bucket.proxy.reset()
            bucket.proxy.fail("flip", nth(number, meets))
            assert check(path).soundness is Soundness.SOUND
    bucket.proxy.reset()
    bucket.proxy.fail("flip", lambda request: is_data(request) and request.has_range, times=10**9)
    assert check(path).soundness is Soundness.DAMAGED


def test_a_byte_that_is_not_what_was_written_is_found(bucket: Bucket, tmp_path: Path) -> None:
    (path,) = upload(bucket.folder, tmp_path, 5)
    damage(tmp_path / "made/checkpoints" / path.name / DATA)
    (path / DATA).write_bytes((tmp_path / "made/checkpoints" / path.name / DATA).read_bytes())
    verdict = check(path)
    assert verdict.soundness is Soundness.DAMAGED
    assert f"{path}/{DATA}: bytes 1,048,576 to {DATA_BYTES:,} are not those that were written" in str(verdict)


def test_a_server_that_fails_is_not_called_damage(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = upload(bucket.folder, tmp_path, 5)
    monkeypatch.setattr("foretrain.trainer.checkpoint.remote.requests.PATIENCE_S", 0.0)
    bucket.proxy.fail("error", is_data, times=10**9)
    with pytest.raises(RemoteError, match=DATA):
        check(path)


def test_the_commands_show_and_verify_the_checkpoints_of_a_url(bucket: Bucket, tmp_path: Path) -> None:
    paths = upload(bucket.folder, tmp_path, 5, 10, 15)
    (paths[2] / MANIFEST).unlink()
    found = inspect.read_all(inspect.checkpoints_of(bucket.folder))
    assert [(each.step, each.samples_consumed) for each in found] == [(5, 40), (10, 80)]
    assert all(each.size_bytes > DATA_BYTES and each.written_s > 1e9 for each in found)
    ended = called("checkpoint", "ls", str(bucket.folder), cwd=tmp_path)
    assert (ended.status, ended.err) == (0, "")
    assert "step-00000015: a save or a removal that is running or was interrupted" in ended.out
    ended = called("checkpoint", "verify", str(paths[0]), cwd=tmp_path)
    assert (ended.status, ended.out) == (0, "step-00000005: sound\n")
    assert_refused(called("checkpoint", "ls", f"{bucket.folder}/nothing", cwd=tmp_path), "there is no folder s3://")


def test_a_run_whose_checkpoints_cannot_be_written_is_refused_at_its_start(bucket: Bucket, tmp_path: Path) -> None:
    def start(url: str) -> str | None:
        return check_room(tmp_path, Config(train=TrainConfig(checkpoint_folder=url)))

    assert start(str(bucket.folder)) is None and not bucket.folder.exists()
    with pytest.raises(ValueError, match=r"s3://no-bucket/run cannot be written .*not exist"):
        start("s3://no-bucket/run")


def test_a_server_that_does_not_answer_at_a_start_is_no_mistake_in_the_config(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foretrain.trainer.checkpoint.remote.requests.PATIENCE_S", 0.0)
    bucket.proxy.fail("error", times=10**9)
    with pytest.raises(RemoteError, match="may-be-written"):
        check_room(tmp_path, Config(train=TrainConfig(checkpoint_folder=str(bucket.folder))))


def test_a_command_says_in_one_line_that_a_server_does_not_answer(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(bucket.folder, tmp_path, 5)
    monkeypatch.setattr("foretrain.trainer.checkpoint.remote.requests.PATIENCE_S", 0.0)
    bucket.proxy.fail("error", times=10**9)
    for verb in ("ls", "verify"):
        ended = called("checkpoint", verb, str(bucket.folder), cwd=tmp_path)
        assert_refused(ended, str(bucket.folder), "then try again")
    bucket.proxy.reset()
    assert_refused(called("checkpoint", "ls", "s3://no-bucket/run", cwd=tmp_path), "s3://no-bucket/run")


def test_prune_removes_the_checkpoints_of_a_run_that_are_on_a_server(bucket: Bucket, tmp_path: Path) -> None:
    paths = upload(bucket.folder, tmp_path, 5, 10, 15, 20)
    (paths[3] / MANIFEST).unlink()
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text(f"train: {{checkpoint_folder: {bucket.folder}}}\n")
    pruned = prune(run_dir, keep=1)
    assert list(pruned.sizes) == [paths[3].name, paths[0].name, paths[1].name]
    assert names(bucket.folder) == [paths[2].name]
    refused = called("checkpoint", "prune", str(bucket.folder), "--keep", "1", cwd=tmp_path)
    assert_refused(refused, "give the folder of the run", "run_dir")
