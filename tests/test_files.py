"""Atomic writes and the lock of foretrain/files.py."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from foretrain.files import LockHeldError, lock, replacing, write_atomically
from tests.cli import ROOT

HOLD_THE_LOCK = """
import sys
from pathlib import Path
from foretrain.files import lock
with lock(Path(sys.argv[1]), remove=sys.argv[2] == "remove"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("content", ["text: ü", b"bytes: \xff"])
def test_a_write_replaces_the_file_and_leaves_nothing_else(content: str | bytes, durable: bool, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    write_atomically(path, content, durable=durable)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(IsADirectoryError), replacing(path) as temporary:
        temporary.write_bytes(tmp_path.read_bytes())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def _hold(path: Path, how: str) -> "subprocess.Popen[str]":
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_THE_LOCK, str(path), how],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    return holder


@pytest.mark.parametrize("how", ["remove", "keep"])
def test_a_held_lock_is_refused_with_its_holder_and_free_when_the_holder_is_killed(how: str, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with _hold(path, how) as holder:
        with pytest.raises(LockHeldError) as refused, lock(path):
            pass
        assert refused.value.holder.startswith(f"process {holder.pid} on ")
        holder.kill()
        holder.wait()
        with lock(path, remove=True):
            assert path.exists()
    assert not path.exists()


@pytest.mark.parametrize("remove", [False, True])
def test_threads_of_one_process_exclude_one_another(remove: bool, tmp_path: Path) -> None:
    held, most = 0, 0

    def hold(_: int) -> None:
        nonlocal held, most
        with lock(tmp_path / "lock", wait_s=60, remove=remove):
            held += 1
            most = max(most, held)
            time.sleep(0.01)
            held -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(hold, range(20)))
    assert most == 1
    with (
        lock(tmp_path / "lock"),
        pytest.raises(LockHeldError, match=f"process {os.getpid()} on "),
        lock(tmp_path / "lock"),
    ):
        pass


@pytest.mark.parametrize("how", ["remove", "keep"])
def test_a_process_that_waits_gets_the_lock_when_the_holder_ends(how: str, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with _hold(path, how) as holder:
        assert holder.stdin is not None
        with _hold_later(path) as waiting:
            holder.stdin.close()
            assert waiting.communicate(timeout=60)[0] == "taken\n"


def _hold_later(path: Path) -> "subprocess.Popen[str]":
    take = "\n".join(
        [
            "import sys",
            "from pathlib import Path",
            "from foretrain.files import lock",
            "with lock(Path(sys.argv[1]), wait_s=60):",
            "    print('taken')",
        ]
    )
    return subprocess.Popen([sys.executable, "-c", take, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
