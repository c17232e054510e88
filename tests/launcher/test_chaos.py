"""A run whose processes are killed again and again, at random moments, has the curve of one that never was."""

import json
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

pytestmark = pytest.mark.long

NUM_STEPS, NUM_KILLS, SEED = 200, 50, 7
CLOCKS = ("step_s", "tokens_per_s", "data_wait_s")


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
    return [{name: value for name, value in record.items() if name not in CLOCKS} for record in records]


def kill_one(victims: Sequence[psutil.Process], chosen: random.Random) -> str | None:
    """Kill one of the processes, and return its command; None if there is none."""
    alive = [each for each in victims if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    if not alive:
        return None
    victim = chosen.choice(alive)
    name = " ".join(victim.cmdline())[-120:]
    victim.kill()
    return name


def wait_for_a_moment(run_dir: Path, process: "subprocess.Popen[bytes]", chosen: random.Random) -> None:
    """Wait for a random moment: of the start-up, or some steps later, and there between two steps or in a save."""
    if chosen.random() < 0.3:
        time.sleep(chosen.uniform(0.0, 5.0))
        return
    size, metrics = chosen.randrange(2_500), run_dir / "metrics.jsonl"  # a step has some 300 bytes
    before = metrics.stat().st_size if metrics.exists() else 0
    deadline_s = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline_s:
        if metrics.exists() and metrics.stat().st_size > before + size:
            break
        time.sleep(0.01)
    time.sleep(chosen.uniform(0.0, 0.1))


def test_killed_at_50_random_moments_a_run_has_the_curve_of_one_that_was_not(folder: Path) -> None:
    assert foretrain(*command("calm"), cwd=folder).status == 0
    run_dir, chosen, killed = folder / "runs/chaos", random.Random(SEED), 0
    before = set(Path("/dev/shm").iterdir())
    output, arguments = folder / "output.txt", [sys.executable, "-m", "foretrain", *command("chaos")]
    with output.open("w") as file:
        process = subprocess.Popen(arguments, cwd=folder, env=environment(), stdout=file, stderr=file)
    while killed < NUM_KILLS and process.poll() is None:
        wait_for_a_moment(run_dir, process, chosen)
        try:
            # All but the process that starts the others again: the launcher, its fork server, and the ranks.
            victims = psutil.Process(process.pid).children(recursive=True)
            killed += kill_one(victims, chosen) is not None
        except psutil.NoSuchProcess:
            continue
    assert process.wait(timeout=600) == 0, output.read_text()[-3000:]
    assert killed == NUM_KILLS, "the run was over before it was killed often enough"
    assert curve(run_dir) == curve(folder / "runs/calm")
    names = sorted(path.name for path in (run_dir / "checkpoints").iterdir())
    assert names == [f"step-{NUM_STEPS - 4:08}", f"step-{NUM_STEPS:08}"]
    for name in names:
        check_content(run_dir / "checkpoints" / name)
    left = [each for each in psutil.process_iter(["cmdline"]) if str(run_dir) in " ".join(each.info["cmdline"] or [])]
    assert left == []
    assert set(Path("/dev/shm").iterdir()) <= before
