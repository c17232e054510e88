"""A socket folder is deleted if it is this user's own and its process has ended, and in no other case."""

import errno
import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from foretrain.launcher.local import sockets
from foretrain.launcher.local.sockets import PREFIX, delete_if_abandoned

HOLDER = """
import sys
from pathlib import Path
from foretrain.files import lock
with lock(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A socket folder whose process was killed."""
    made = tmp_path / f"{PREFIX}12345678"
    made.mkdir(mode=0o700)
    (made / "owner").write_text("process 12 on node3\n")
    return made


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Another process that holds the lock on a file, as the one that made the folder does."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        yield
        holder.kill()


def test_a_folder_is_deleted_only_after_its_process_has_ended(folder: Path) -> None:
    with held(folder / "owner"):
        before = (folder / "owner").read_text()
        delete_if_abandoned(folder)
        assert (folder / "owner").read_text() == before
    delete_if_abandoned(folder)
    assert not folder.exists()


def test_an_owner_that_is_a_link_is_not_followed_and_the_folder_stays(folder: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("a file of this user")
    (folder / "owner").unlink()
    (folder / "owner").symlink_to(precious)
    delete_if_abandoned(folder)
    assert precious.read_text() == "a file of this user"
    assert (folder / "owner").is_symlink()


def test_a_link_to_a_folder_is_not_followed(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / f"{PREFIX}87654321"
    link.symlink_to(folder)
    delete_if_abandoned(link)
    assert link.is_symlink()
    assert (folder / "owner").exists()


def test_a_folder_of_another_user_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Only root can give a folder away, but every user can be another one than its owner.
    another = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: another)
    delete_if_abandoned(folder)
    assert (folder / "owner").exists()


def test_a_folder_without_an_owner_and_a_name_that_is_gone_are_left(folder: Path) -> None:
    (folder / "owner").unlink()
    delete_if_abandoned(folder)
    assert folder.is_dir()
    delete_if_abandoned(folder.with_name(f"{PREFIX}gone"))


def test_a_folder_on_a_file_system_without_locks_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "fcntl", unsupported)
    delete_if_abandoned(folder)
    assert (folder / "owner").exists()


def test_processes_start_also_if_the_path_of_the_temporary_folder_is_too_long_for_a_socket(tmp_path: Path) -> None:
    temporary = tmp_path / ("long" * 30)
    temporary.mkdir()
    script = "from foretrain.launcher.local.run import call_local; print(call_local('os:getpid', (), 2))"
    env = {**os.environ, "TMPDIR": str(temporary)}
    ended = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert [*temporary.glob(f"*{PREFIX}*")] == []


def test_a_long_path_is_refused_with_what_to_do_if_no_other_folder_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 30)))
    monkeypatch.setattr(sockets, "SHORT", (str(tmp_path / "missing"),))
    with pytest.raises(OSError, match=r"set TMPDIR to a folder whose path has at most 59 bytes"):
        sockets.socket_place()
