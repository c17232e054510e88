"""What launchers do if the disk fails to which they write: nothing is half-written, and no job is forgotten."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from foretrain import records
from foretrain.configs.launching import LaunchConfig
from foretrain.launcher.active import refuse_active
from foretrain.launcher.job import Job
from foretrain.launcher.launchers import LAUNCHERS
from foretrain.launcher.launches import launches
from foretrain.launcher.local.supervise import MODULE
from foretrain.launcher.private import write_private
from foretrain.launcher.protocol import Script, Submitted
from foretrain.launcher.ray.echo import echoed
from foretrain.launcher.restart import read_starts
from foretrain.launcher.slurm import commands
from tests.processes import wait_until


def job_in(folder: Path) -> Job:
    return Job("x", str(folder), str(folder), sys.executable, 1, 1, 1, 0, (), 3)


def fail(*arguments: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_job_whose_launch_cannot_be_recorded_is_shown_and_not_launched_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = {"sbatch": "12\n", "squeue": f"12 RUNNING {tmp_path / 'job.sbatch'}\n"}
    monkeypatch.setattr(commands, "ask", lambda name, *rest: answers[name])
    monkeypatch.setattr(records, "append", fail)
    launcher = LAUNCHERS.get("slurm")
    submitted = launcher.submit(job_in(tmp_path), Script("job.sbatch", ""), LaunchConfig())
    assert isinstance(submitted, Submitted) and submitted.id == "12"
    assert "slurm job 12 is submitted, and its launch cannot be recorded" in caplog.text
    assert launches(tmp_path) == []
    with pytest.raises(ValueError, match="was launched as slurm job 12, which still waits or runs"):
        refuse_active(tmp_path, launcher, LaunchConfig())


def test_a_private_file_that_cannot_be_written_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "job.env"
    write_private(path, "export KEY=old\n")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", fail)
        with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
            write_private(path, "export KEY=new\n")
    assert (path.read_text(), [*tmp_path.iterdir()]) == ("export KEY=old\n", [path])
    write_private(path, "export KEY=new\n")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("export KEY=new\n", 0o600)


def test_a_run_is_started_again_although_nothing_can_be_printed(tmp_path: Path) -> None:
    script = f'mkdir "{tmp_path}/once" && kill -9 $$; exit 0'
    command = [sys.executable, "-m", MODULE, "--max-starts", "3", str(tmp_path), "bash", "-c", script]
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(command, stdout=full, stderr=full, check=False, timeout=60)
    assert ended.returncode == 0
    assert len(read_starts(tmp_path)) == 2


class Disk(io.RawIOBase):
    """What standard output goes to: a file on a disk that may be full."""

    def __init__(self) -> None:
        self.is_full, self.num_failed, self.content = True, 0, b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.is_full:
            self.num_failed += 1
            fail()
        self.content += bytes(data)
        return len(data)


def test_what_a_log_gets_is_shown_after_a_part_that_could_not_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, disk = tmp_path / "rank-000.log", Disk()
    log.touch()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(disk)))
    with echoed(log):
        log.write_text("first\n")
        wait_until(lambda: disk.num_failed > 0)
        disk.is_full = False
        with log.open("a") as file:
            file.write("second\n")
    assert disk.content.endswith(b"second\n")
