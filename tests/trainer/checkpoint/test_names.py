"""Only folders named exactly step-N with a record are checkpoints: others are neither loaded nor removed."""

from pathlib import Path

import pytest

from foretrain.trainer.checkpoint.files import Checkpoints
from foretrain.trainer.checkpoint.inspect import complete
from foretrain.trainer.checkpoint.prune import prune
from foretrain.trainer.checkpoint.retention import Retention
from foretrain.trainer.run.folder import CHECKPOINTS, newest_checkpoint
from tests.trainer.checkpoint.made import make_checkpoint, make_run, names

OTHERS = ("step-00000050-keep-this", "step-00000001.bak", "step-1", "step-0000000٣", "step-+0000001", "step-000000001")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run with three checkpoints, beside which are folders of a user, some of them complete copies."""
    run = make_run(tmp_path / "run", 1, 2, 3)
    for name in OTHERS:
        make_checkpoint(run, 1, prefix="copy-").rename(run / CHECKPOINTS / name)
    (run / CHECKPOINTS / "step-00000999").mkdir()
    (run / CHECKPOINTS / "step-00000998").mkdir()
    (run / CHECKPOINTS / "step-00000998" / "notes.txt").write_text("mine")
    return run


def test_a_run_resumes_from_none_of_them(run_dir: Path) -> None:
    assert [path.name for path in complete(run_dir)] == ["step-00000001", "step-00000002", "step-00000003"]
    assert newest_checkpoint(run_dir).name == "step-00000003"


def test_none_of_them_is_removed(run_dir: Path) -> None:
    before = names(run_dir)
    prune(run_dir, keep=1)
    assert {*before} - {*names(run_dir)} == {"step-00000001", "step-00000002"}
    checkpoints = Checkpoints(run_dir / CHECKPOINTS, Retention(newest=1))
    checkpoints.remove_after(2)
    assert {*before} - {*names(run_dir)} == {"step-00000001", "step-00000002", "step-00000003"}
    assert (run_dir / CHECKPOINTS / "step-00000998" / "notes.txt").read_text() == "mine"


def test_steps_of_more_than_eight_digits_are_checkpoints(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 99_999_999, 100_000_000)
    assert newest_checkpoint(run).name == "step-100000000"
