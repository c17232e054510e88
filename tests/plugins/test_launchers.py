"""A launcher that a plugin adds starts, stops and resumes runs, and the trials of a sweep."""

import re
import shutil
from pathlib import Path

import pytest

from foretrain.launcher.launchers import LAUNCHERS
from foretrain.registry import import_plugins
from foretrain.scaling.records import RESULTS_FILE
from foretrain.trainer.metrics import METRICS_FILE, read_metrics
from foretrain.trainer.run.folder import newest_checkpoint, step_of
from tests.cli import CONFIG, ROOT, assert_refused, called
from tests.processes import assert_none, wait_until
from tests.scaling.sweep.tiny import sweep, users_folder

PLUGIN = "tests.plugins.launchers"
NUM_STEPS = 12


@pytest.fixture
def folder(tmp_path: Path, corpus: Path) -> Path:
    """A user's folder with a config that lists the plugin."""
    config = re.sub(r"num_tokens: \d+", f"num_tokens: {NUM_STEPS * 8 * 32}", CONFIG, count=1)
    (tmp_path / "tiny.yaml").write_text(f"plugins: [{PLUGIN}]\n{config}", encoding="utf-8")
    shutil.copytree(corpus, tmp_path / "corpus")
    return tmp_path


def steps(run_dir: Path) -> list[int]:
    path = run_dir / METRICS_FILE
    return [record["step"] for record in read_metrics(path) if record["kind"] == "train"] if path.exists() else []


@pytest.mark.long
def test_it_trains_on_one_process_and_stops_and_resumes_with_tensor_and_pipeline_parallelism(folder: Path) -> None:
    import_plugins([PLUGIN])
    launcher = LAUNCHERS.get("background")
    command = ("launch", "tiny.yaml", "--on", "background", "sample.prompts=[]", "launch.cpus_per_rank=1")
    one = called(*command, "run_dir=runs/one", "parallel.dp=1", cwd=folder, PYTHONPATH=str(ROOT))
    assert (one.status, one.err) == (0, "")
    assert re.search(r"^Process \d+ is submitted$", one.out, re.MULTILINE)
    four = (*command, "run_dir=runs/four", "parallel.dp=1", "parallel.tp=2", "parallel.pp=2")
    assert called(*four, cwd=folder, PYTHONPATH=str(ROOT)).status == 0
    run_dir = folder / "runs/four"
    assert_refused(
        called(*four, cwd=folder, PYTHONPATH=str(ROOT)), "was launched as background job", "still waits or runs", "stop"
    )
    wait_until(lambda: len(steps(run_dir)) >= 2)
    assert [job.state for job in launcher.stop(run_dir)] == ["running"]
    assert_none(run_dir)
    stopped = newest_checkpoint(run_dir)
    assert stopped is not None and 2 <= step_of(stopped) <= NUM_STEPS

    called(*four, cwd=folder, PYTHONPATH=str(ROOT))
    wait_until(lambda: steps(run_dir) == [*range(1, NUM_STEPS + 1)] and steps(folder / "runs/one") == steps(run_dir))
    assert_none(folder / "runs")
    assert launcher.logs(run_dir)[0].name == "background.log"


@pytest.mark.long
def test_it_runs_the_trials_of_a_sweep(tmp_path: Path, corpus: Path) -> None:
    folder = users_folder(tmp_path, corpus)
    options = ("--over", "optimizer.lr=2^-7", "launch.cpus_per_rank=1", f"plugins=[{PLUGIN}]")
    result = sweep(folder, "sweeps/background", "--on", "background", *options, PYTHONPATH=str(ROOT))
    assert result.status == 0, result.err
    assert sweep(folder, "sweeps/here", *options).status == 0
    bytes_here = (folder / "sweeps/here" / RESULTS_FILE).read_bytes()
    assert (folder / "sweeps/background" / RESULTS_FILE).read_bytes() == bytes_here


LAUNCH = ("launch", "tiny.yaml")
SWEEP = ("sweep", "tiny.yaml", "--out", "x", "--over", "optimizer.lr=1e-3")


@pytest.mark.parametrize("command", [LAUNCH, SWEEP])
def test_a_launcher_that_does_not_exist_is_refused_with_the_names_of_those_that_do(
    command: tuple[str, ...], folder: Path
) -> None:
    result = called(*command, "--on", "cloud", cwd=folder)
    assert_refused(result, "--on: there is no launcher named 'cloud'", "local, slurm, ray, background", "`plugins`")
