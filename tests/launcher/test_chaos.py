"""A run whose processes are killed again and again, at random moments, has the curve of one that never was."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from foretrain.trainer.checkpoint.manifest import check_content
from tests.cli import CONFIG, environment, foretrain
from tests.trainer.steps import is_time

pytestmark = pytest.mark.long

NUM_STEPS, SEED = 200, 7
NUM_KILLS = int(os.environ.get("FORETRAIN_KILLS", "20"))
"""Each costs a start of a run, seconds on an idle machine; FORETRAIN_KILLS=500 makes the long form of this test."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A user's folder."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "tiny.yaml").write_text(CONFIG, encoding="utf-8")
    shutil.copytree(corpus, folder / "corpus")
    return folder


def command(name: str, *overrides: str) -> tuple[str, ...]:
    settings = (f"run_dir=runs/{name}", f"train.num_tokens={NUM_STEPS * 8 * 32}", "train.checkpoint_every=4")
    return ("launch", "tiny.yaml", *settings, f"launch.max_starts={NUM_KILLS}", "sample.prompts=[]", *overrides)


def curve(run_dir: Path) -> list[dict[str, Any]]:
    """What the metrics say of every step, without times."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if not is_time(name)} for record in records]


def kill_one(victims: Sequence[psutil.Process], chosen: random.Random) -> str | None:
    """Kill one of the processes, and return its command; None if there is none."""
    alive = [each for each in victims if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    if not alive:
        return None
    victim = chosen.choice(alive)
    name = " ".join(victim.cmdline())[-120:]
    victim.kill()
    return name


def num_steps(run_dir: Path) -> int:
    """Steps in the metrics of a run, which resumes cut back to a checkpoint."""
    metrics = run_dir / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def wait_for_a_moment(run_dir: Path, killed: int, chosen: random.Random) -> None:
    """Wait for a random moment of the start-up, or some steps later: between two steps, in one, or in a save.

    A run that has done more than its share of the steps for that number of kills is killed during its start-up.
    """
    before = num_steps(run_dir)
    if chosen.random() < 0.4 or before > 0.8 * NUM_STEPS * (killed + 1) / NUM_KILLS:
        time.sleep(chosen.uniform(0.0, 1.5))
        return
    wanted, deadline_s = before + chosen.randrange(1, 4), time.monotonic() + 60
    while num_steps(run_dir) < wanted and time.monotonic() < deadline_s:
        time.sleep(0.01)
    time.sleep(chosen.uniform(0.0, 0.1))


def test_killed_again_and_again_at_random_moments_a_run_has_the_curve_of_one_that_was_not(folder: Path) -> None:
    assert foretrain(*command("calm"), cwd=folder).status == 0
    run_dir, chosen, killed = folder / "runs/chaos", random.Random(SEED), 0
    before = set(Path("/dev/shm").iterdir())
    output, arguments = folder / "output.txt", [sys.executable, "-m", "foretrain", *command("chaos")]
    with output.open("w") as file:
        process = subprocess.Popen(arguments, cwd=folder, env=environment(), stdout=file, stderr=file)
    while killed < NUM_KILLS and process.poll() is None:
        wait_for_a_moment(run_dir, killed, chosen)
        try:
            # All but the process that starts the others again: the launcher, its fork server, and the ranks.
            victims = psutil.Process(process.pid).children(recursive=True)
            killed += kill_one(victims, chosen) is not None
        except psutil.NoSuchProcess:
            continue
    assert process.wait(timeout=600) == 0, output.read_text()[-3000:]
    assert killed >= NUM_KILLS / 2, "the run was over before it was killed often enough"
    assert curve(run_dir) == curve(folder / "runs/calm")
    names = sorted(path.name for path in (run_dir / "checkpoints").iterdir())
    assert names == [f"step-{NUM_STEPS - 4:08}", f"step-{NUM_STEPS:08}"]
    for name in names:
        check_content(run_dir / "checkpoints" / name)
    left = [each for each in psutil.process_iter(["cmdline"]) if str(run_dir) in " ".join(each.info["cmdline"] or [])]
    assert left == []
    assert set(Path("/dev/shm").iterdir()) <= before
