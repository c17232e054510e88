"""Many commands on real Ray clusters: each runs, again where it was killed, and nothing is left of them."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from foretrain.launcher.array.ending import status_of
from foretrain.launcher.array.run import running
from foretrain.launcher.launchers import LAUNCHERS
from foretrain.launcher.launches import launches
from tests.launcher.array.programs import job_array, most_at_once, words
from tests.launcher.ray.conftest import RayCluster
from tests.launcher.ray.jobs import ROOT
from tests.processes import DEADLINE_S, assert_none, command, of_folder, wait_until

BRIEF = "note('begin'); time.sleep(0.3); note('end')"


@pytest.mark.long
def test_each_command_runs_once_or_again_where_it_was_killed_and_no_more_at_once_than_asked(
    cluster: RayCluster, tmp_path: Path
) -> None:
    first = f"again = os.path.exists({str(tmp_path)!r} + '/notes-%s'); note('start'); again and sys.exit(0); "
    programs = {
        "lost": first % "lost" + "time.sleep(1000)",
        "killed": first % "killed" + "os.kill(os.getpid(), signal.SIGKILL)",
        "bug": "print('a bug'); sys.exit(3)",
        **dict.fromkeys("ab", BRIEF),
    }
    made = job_array(tmp_path, programs, at_once=2, env=["PATH", "NOT_CARRIED", f"TEST_FOLDER={tmp_path}"])
    made.launch.ray.address = cluster.address
    ray = LAUNCHERS.get("ray")
    with running(made, ray) as ends:
        with pytest.raises(ValueError, match="is in use by process"), running(made, ray):
            pass
        wait_until(lambda: words(tmp_path, "lost") == ["start"], "task")
        (actor,) = [process.parent() for process in of_folder(tmp_path) if "notes-lost" in " ".join(command(process))]
        assert actor.name().startswith("ray::Agent")
        actor.send_signal(signal.SIGKILL)  # as its node's death does
        result = {ended.name: (ended.status, ended.log) for ended in ends}
    statuses = {**dict.fromkeys(programs, 0), "bug": 3}
    assert result == {name: (status, made.folder / f"logs/{name}.log") for name, status in statuses.items()}
    assert [len(words(tmp_path, name)) for name in ("lost", "killed", "a", "b")] == [2] * 4
    assert most_at_once(tmp_path, [*"ab"]) <= 2
    log = result["bug"][1].read_text().splitlines()
    assert log[0].startswith("--- task bug starts, ") and log[1:] == ["a bug"]
    (launch,) = launches(made.folder)
    assert (
        "killed: was killed (status 137): is started again" in (made.folder / f"logs/ray-{launch.id}.log").read_text()
    )
    assert_none(tmp_path)


@pytest.mark.long
def test_ctrl_c_has_the_tasks_save_and_leaves_neither_them_nor_a_cluster(ray_installed: None, tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: Ray's sockets lie in it
    program = subprocess.Popen(
        [sys.executable, "-m", "tests.launcher.array.in_foreground", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "RAY_ADDRESS": "http://another:1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: both_noted("start", tmp_path) or program.poll() is not None, "tasks")
    os.killpg(program.pid, signal.SIGINT)  # as a terminal does
    out, err = program.communicate(timeout=DEADLINE_S)
    assert program.returncode != 0 and out == "" and err.rstrip().endswith("KeyboardInterrupt"), err
    assert both_noted("saved", tmp_path)
    assert status_of(tmp_path / "the batch", "a") is None
    assert_none(tmp_path)
    assert_none(folder)
    assert [*folder.iterdir()] == []
    folder.rmdir()


def both_noted(word: str, folder: Path) -> bool:
    return all(word in words(folder, name) for name in "ab")
