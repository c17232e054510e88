"""A folder of checkpoints outside of the run folder is for one run, which finds it again and loses no checkpoint."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foretrain.configs import load as configs
from foretrain.configs.schema import Config, ParallelConfig
from foretrain.launcher.train import Place, announce, prepared_run
from foretrain.trainer.checkpoint.checksums import ChecksumWriter
from foretrain.trainer.checkpoint.manifest import MANIFEST, METADATA
from foretrain.trainer.run.folder import CHECKPOINTS, CONFIG_FILE, RECORD, checkpoints_in
from foretrain.trainer.run.owner import OWNER, claim
from foretrain.trainer.run.setup import prepare_run
from tests.trainer.checkpoint.made import make_checkpoint
from tests.trainer.test_resume import config


def settings(run_dir: Path, corpus: Path, folder: object, **train: Any) -> Config:
    return config(run_dir, corpus, ParallelConfig(), checkpoint_folder=folder and str(folder), **train)


def start(asked: Config) -> None:
    """What a start does before its first step."""
    with prepared_run(asked, Place(), allow_data_change=False) as run:
        announce(run)


def test_a_relative_folder_is_that_of_the_working_directory_of_the_first_command(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    start(settings(tmp_path / "run", corpus, "saved"))
    monkeypatch.chdir("/")
    assert checkpoints_in(tmp_path / "run").place == tmp_path / "saved"
    saved = configs.load(tmp_path / "run" / CONFIG_FILE)
    assert prepare_run(saved).checkpoints.place == tmp_path / "saved"


def test_a_url_is_not_changed(tmp_path: Path, corpus: Path) -> None:
    url = f"file://{tmp_path}/saved"
    assert prepare_run(settings(tmp_path / "run", corpus, url)).config.train.checkpoint_folder == url


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_folder_of_checkpoints_that_belongs_to_another_run_is_refused(
    prefix: str, tmp_path: Path, corpus: Path
) -> None:
    first, second = (settings(tmp_path / name, corpus, f"{prefix}{tmp_path}/saved") for name in ("first", "second"))
    planned = prepare_run(second)
    start(first)
    start(first)
    with pytest.raises(ValueError, match=rf"saved belongs to the run in {tmp_path}/first: set another"):
        prepare_run(second)
    with pytest.raises(ValueError, match="belongs to the run in"):
        announce(planned)
    start(replace(second, train=replace(second.train, checkpoint_folder=str(tmp_path / "other"))))


def test_a_run_whose_folder_was_moved_or_lost_can_continue(tmp_path: Path, corpus: Path) -> None:
    start(settings(tmp_path / "run", corpus, tmp_path / "saved"))
    (tmp_path / "run").rename(tmp_path / "moved")
    start(settings(tmp_path / "moved", corpus, tmp_path / "saved"))
    shutil.rmtree(tmp_path / "moved")
    again = settings(tmp_path / "again", corpus, tmp_path / "saved")
    with pytest.raises(ValueError, match=rf"delete {tmp_path}/saved/{OWNER}"):
        start(again)
    (tmp_path / "saved" / OWNER).unlink()
    start(again)
    start(again)


def test_an_empty_config_in_the_run_folder_names_no_folder(tmp_path: Path, corpus: Path) -> None:
    (tmp_path / CONFIG_FILE).touch()
    assert checkpoints_in(tmp_path).place == tmp_path / CHECKPOINTS
    start(settings(tmp_path, corpus, tmp_path / "saved"))


def test_a_second_claim_changes_nothing(tmp_path: Path) -> None:
    claim(tmp_path / "run", tmp_path / "saved")
    written = [(tmp_path / name / OWNER).read_text() for name in ("run", "saved")]
    assert written[0] == written[1]
    claim(tmp_path / "run", tmp_path / "saved")
    assert [(tmp_path / name / OWNER).read_text() for name in ("run", "saved")] == written


@pytest.mark.parametrize(("before", "after"), [(None, "saved"), ("saved", None), ("saved", "other")])
def test_a_run_that_would_leave_its_checkpoints_behind_is_refused(
    before: str | None, after: str | None, tmp_path: Path, corpus: Path
) -> None:
    old = settings(tmp_path / "run", corpus, before and tmp_path / before)
    new = settings(tmp_path / "run", corpus, after and tmp_path / after)
    start(old)
    start(new)  # there was no checkpoint yet
    start(old)
    newest = tmp_path / (before or f"run/{CHECKPOINTS}") / "step-00000005"
    newest.mkdir(parents=True)
    (newest / RECORD).touch()
    with pytest.raises(ValueError, match=rf"start again at step 0: its newest checkpoint is {newest}, and .* has none"):
        prepare_run(new)
    with pytest.raises(ValueError, match=r"set train\.checkpoint_folder back to"):
        prepare_run(new, check_corpus=False)
    start(settings(tmp_path / "another", corpus, tmp_path / "third"))


def test_a_checkpoint_of_an_earlier_version_in_a_folder_of_a_server_is_not_removed(
    tmp_path: Path, corpus: Path
) -> None:
    asked = settings(tmp_path / "run", corpus, f"file://{tmp_path}/made/{CHECKPOINTS}")
    interrupted = make_checkpoint(tmp_path / "made", 6)
    with ChecksumWriter(interrupted / METADATA) as file:
        file.write(b"metadata")
    (interrupted / MANIFEST).unlink()
    start(asked)  # what a save has left may be removed
    made = make_checkpoint(tmp_path / "made", 5, has_checksums=False)
    (made / METADATA).write_bytes(b"metadata")
    with pytest.raises(ValueError, match=rf"{made} has no {MANIFEST}, as checkpoints of an earlier version"):
        prepare_run(asked)
