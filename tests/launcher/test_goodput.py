"""The ledger of a run whose processes are killed says where all its time went."""

import json
import shutil
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from foretrain.launcher.local.supervise import MODULE
from foretrain.trainer.goodput import facts
from foretrain.trainer.goodput.ledger import Ledger
from foretrain.trainer.metrics import read_metrics
from tests.cli import CONFIG, NUM_STEPS, foretrain
from tests.plugins.killed import KILLED_AFTER

pytestmark = pytest.mark.long

EVERY = 4
"""Steps between checkpoints, so that the run resumes from step 8 after it was killed after step 10."""


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """The folder of a run of two ranks that was killed once, with evaluations and checkpoints, and its output."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "tiny.yaml").write_text(CONFIG, encoding="utf-8")
    shutil.copytree(corpus, folder / "corpus")
    settings = (
        "run_dir=run",
        "plugins=[tests.plugins.killed]",
        "train.callbacks=[killed_once]",
        f"train.checkpoint_every={EVERY}",
        "train.checkpoint_in_background=false",  # so that the checkpoint of step 8 is complete before step 9
        "train.eval_every=5",
        "sample.prompts=[]",
    )
    ended = foretrain("launch", "tiny.yaml", *settings, cwd=folder)
    assert ended.status == 0, ended.err
    assert "a rank was killed (status 137): resumes from step 8" in ended.err
    (folder / "run/output.txt").write_text(ended.out, encoding="utf-8")
    return folder / "run"


def steps(run_dir: Path) -> list[dict[str, Any]]:
    """The metrics of each step, also of those that were taken again."""
    return [json.loads(line) for line in (run_dir / "steps.jsonl").read_text().splitlines()]


def good_s(step: Mapping[str, float]) -> float:
    """Seconds of a step without its wait for data."""
    return step["step_s"] - step["data_wait_s"]


def test_the_causes_add_up_to_the_time_from_the_launch_to_the_end(run_dir: Path) -> None:
    assert MODULE in (run_dir / "job.sh").read_text()
    # Files that the launch wrote last and the trainer wrote last, whose times the ledger does not know.
    wall_s = (run_dir / facts.GOODPUT_FILE).stat().st_mtime - (run_dir / "job.sh").stat().st_mtime
    assert Ledger(facts.read(run_dir)).life_s == pytest.approx(wall_s, rel=0.01)


def test_the_lost_steps_are_those_that_were_done_twice(run_dir: Path) -> None:
    done, ledger = steps(run_dir), Ledger(facts.read(run_dir))
    assert [step["step"] for step in done] == [*range(1, KILLED_AFTER + 1), *range(9, NUM_STEPS + 1)]
    twice = [step for step in done[:KILLED_AFTER] if step["step"] > 8]
    assert (ledger.num_lost, ledger.num_starts) == (len(twice), 2)
    assert ledger.seconds["lost"] == pytest.approx(sum(map(good_s, twice)), rel=1e-3)


def test_what_is_left_of_the_steps_is_what_the_metrics_say(run_dir: Path) -> None:
    done = steps(run_dir)
    good = [
        # The first step of a start counts as much as its second: what it took longer was start-up.
        min(good_s(step), good_s(after)) if step["is_first"] else good_s(step)
        for step, after in pairwise([*done, done[-1]])
        if step is not done[8] and step is not done[9]
    ]
    assert Ledger(facts.read(run_dir)).seconds["step"] == pytest.approx(sum(good), rel=1e-3)


def test_every_cause_of_this_run_has_its_time(run_dir: Path) -> None:
    seconds = Ledger(facts.read(run_dir)).seconds
    others = {"queue", "straggler", "compile"}
    assert {cause for cause, time_s in seconds.items() if time_s > 0} == seconds.keys() - others
    slept_s = 0.03 * seconds["step"]  # at the least, by the callback
    assert seconds["other"] > slept_s


def test_the_summary_the_metrics_and_the_record_show_one_number_and_its_causes(run_dir: Path) -> None:
    ledger, output = Ledger(facts.read(run_dir)), (run_dir / "output.txt").read_text()
    in_one_line = " ".join(output.replace("│", " ").split())  # the table breaks lines anywhere
    assert f"goodput {ledger.goodput:.1%} of " in in_one_line and "in 2 starts" in in_one_line
    assert "2 lost steps" in in_one_line
    record = json.loads((run_dir / facts.GOODPUT_FILE).read_text())
    assert record["goodput"] == pytest.approx(ledger.goodput, abs=1e-6)
    assert record["seconds"] == pytest.approx(ledger.seconds, abs=1e-3)
    with_goodput = [each for each in read_metrics(run_dir / "metrics.jsonl") if "goodput" in each]
    assert [each["step"] for each in with_goodput] == [10, 20, 30, 40]
    for each in with_goodput:
        shares = [share for name, share in each.items() if name.startswith("badput/")]
        assert each["goodput"] + sum(shares) == pytest.approx(1.0)
    assert with_goodput[0]["badput/lost"] > 0, "a resume keeps what was spent before"
