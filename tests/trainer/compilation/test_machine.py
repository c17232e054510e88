"""What a machine must have so that blocks can be compiled, and the folder in which the code is kept."""

import os
import stat
import sysconfig
from pathlib import Path

import pytest
from typer.testing import CliRunner

from foretrain.trainer.compilation.machine import FOLDER_VARIABLE, check_machine, use_own_folder
from foretrain.verbs.app import app
from tests.required import need_to_compile


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of its own, and no folder that the environment names."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(FOLDER_VARIABLE, "")
    return tmp_path


def test_without_a_compiler_one_message_says_what_to_install_or_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    need_to_compile()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        ValueError, match=r"no 'g\+\+' on this machine: install one .*CXX=clang\+\+.*train.compile=false"
    ):
        check_machine()
    monkeypatch.setenv("CXX", "clang-of-mine")
    with pytest.raises(ValueError, match="no 'clang-of-mine' on this machine"):
        check_machine()


def test_without_the_headers_of_python_one_message_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(ValueError, match=r"Python.h: install them .*train.compile=false"):
        check_machine()


def test_a_run_is_refused_before_its_ranks_start_and_an_eager_one_needs_no_compiler(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foretrain.launcher.train.run_local", lambda *arguments, **options: 0)
    monkeypatch.setenv("CXX", "no-compiler")
    settings = ["runs/dry_run", f"data.path={corpus}", "parallel.dp=1", "parallel.tp=1", "parallel.pp=1"]
    settings += [f"run_dir={tmp_path / 'run'}", "model.seq_len=32", "schedule.warmup_tokens=0"]
    refused = CliRunner().invoke(app, ["train", *settings, "train.compile=true"])
    assert (refused.exit_code, "there is no 'no-compiler' on this machine" in refused.output) == (2, True), (
        refused.output
    )
    assert not (tmp_path / "run").exists()
    assert CliRunner().invoke(app, ["train", *settings]).exit_code == 0


def test_only_its_owner_can_write_into_the_folder_and_torch_looks_there(home: Path) -> None:
    before = os.umask(0)
    try:
        folder = use_own_folder()
    finally:
        os.umask(before)
    assert os.environ[FOLDER_VARIABLE] == str(folder)
    assert folder.parents[1] == home / "foretrain"
    assert {stat.S_IMODE(each.stat().st_mode) for each in (folder, folder.parent, folder.parents[1])} == {0o700}
    assert use_own_folder() == folder


def test_a_folder_that_the_environment_names_is_used_and_torchs_own_choice_in_tmp_is_not(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(home / "mine"))
    assert use_own_folder() == home / "mine"
    monkeypatch.setattr("foretrain.trainer.compilation.machine.gettempdir", lambda: str(home))
    monkeypatch.setenv(FOLDER_VARIABLE, str(home / "torchinductor_me"))
    assert use_own_folder().parents[1] == home / "foretrain"


@pytest.mark.parametrize("name", ["foretrain", "foretrain/compiled"])
def test_a_folder_that_everybody_can_write_and_a_link_are_refused(
    name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = home / name
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    with pytest.raises(ValueError, match=f"everybody can write into {folder}.* set {FOLDER_VARIABLE}"):
        use_own_folder()
    folder.chmod(0o775)
    use_own_folder()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755, "closed to the group"
    link = home / "link"
    link.symlink_to(folder)
    monkeypatch.setenv(FOLDER_VARIABLE, str(link))
    with pytest.raises(ValueError, match=f"{link} is a link"):
        use_own_folder()


def test_a_folder_of_another_user_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_own_folder()
    monkeypatch.setenv(FOLDER_VARIABLE, "")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(ValueError, match="who could replace the code in it"):
        use_own_folder()


def test_a_folder_that_cannot_be_made_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, "/proc/none/compiled")
    with pytest.raises(ValueError, match=f"cannot keep compiled code .*set {FOLDER_VARIABLE}"):
        use_own_folder()
