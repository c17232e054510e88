"""A launched run of which one rank freezes says which, starts again by itself, and has the curve of a sound run."""

import shutil
from pathlib import Path

import psutil
import pytest

from foretrain.trainer.goodput import facts
from foretrain.trainer.goodput.ledger import Ledger
from foretrain.trainer.metrics import is_time, read_metrics
from foretrain.trainer.run.folder import HANGS
from tests.cli import CONFIG, NUM_STEPS, end, foretrain, start
from tests.plugins.stopped import STOPPED_IN, STOPPED_RANK

pytestmark = pytest.mark.long
SETTINGS = (
    "train.checkpoint_every=3",
    "train.checkpoint_in_background=false",  # so that the checkpoint of step 6 is complete before step 8
    "parallel.hang_s=4",
    "sample.prompts=[]",
)


def curve(run_dir: Path) -> list[dict[str, float]]:
    """The metrics of each step, without times."""
    records = [each for each in read_metrics(run_dir / "metrics.jsonl") if each["kind"] == "train"]
    return [{name: value for name, value in record.items() if not is_time(name)} for record in records]


def test_a_launched_run_of_which_a_rank_freezes_names_it_and_continues_on_the_same_curve(
    tmp_path: Path, corpus: Path
) -> None:
    (tmp_path / "tiny.yaml").write_text(CONFIG, encoding="utf-8")
    shutil.copytree(corpus, tmp_path / "corpus")
    plugin = ("plugins=[tests.plugins.stopped]", "train.callbacks=[stopped_once]")
    started = start("launch", "tiny.yaml", "run_dir=frozen", *SETTINGS, *plugin, cwd=tmp_path)
    calm = foretrain("launch", "tiny.yaml", "run_dir=calm", *SETTINGS, cwd=tmp_path)  # while the other waits
    ended = end(started)
    assert calm.status == 0, calm.err
    assert ended.status == 0, ended.err
    frozen = tmp_path / "frozen"
    (report,) = frozen.glob(f"{HANGS}/*/report.txt")
    assert f"rank {STOPPED_RANK} on" in report.read_text() and "gives no sign of life" in report.read_text()
    assert f"step {STOPPED_IN} hangs" in report.read_text() and f"step {STOPPED_IN} hangs" in ended.err
    assert "hung (see " in ended.err and "resumes from step 6" in ended.err
    assert Ledger(facts.read(frozen)).num_starts == 2
    assert not psutil.pid_exists(int((frozen / "stopped").read_text()))
    assert curve(frozen) == curve(tmp_path / "calm") and len(curve(frozen)) == NUM_STEPS
