"""`foretrain sweep` with real trials: tiny ones, from its first process to its results."""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from foretrain.configs import load as configs
from foretrain.scaling.laws.runs import read_runs
from foretrain.scaling.records import RESULTS_FILE, TRIALS
from foretrain.scaling.sweep.plan import Ask
from foretrain.scaling.sweep.run import make_plan
from foretrain.scaling.trials import run as trial_module
from foretrain.scaling.trials.record import OUTCOME_FILE, TRIAL_CONFIG
from foretrain.trainer.metrics import METRICS_FILE, read_metrics
from foretrain.trainer.run.exit_status import EXIT_DONE, EXIT_FAILED, EXIT_RESUME
from foretrain.trainer.run.folder import CHECKPOINTS, LOGS
from tests.cli import DEADLINE_S, Ended, assert_refused, start
from tests.processes import assert_gone
from tests.scaling.sweep.tiny import NUM_STEPS, TWO_RATES, results, sweep, users_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    return users_folder(tmp_path_factory.mktemp("user"), corpus)


def wait_until(happens: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not happens():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.01)


def num_steps(out: Path) -> int:
    """Taken so far, by all trials."""
    return sum(len(read_metrics(path)) for path in out.glob(f"{TRIALS}/*/{METRICS_FILE}"))


@pytest.fixture(scope="module")
def complete(folder: Path) -> Ended:
    """A sweep that nothing interrupts, in sweeps/complete."""
    return sweep(folder, "sweeps/complete", *TWO_RATES, "--seeds", "0,1")


def test_a_sweep_leaves_a_result_for_each_trial_in_the_order_of_the_plan(complete: Ended, folder: Path) -> None:
    assert complete.status == EXIT_DONE, complete.err
    found = results(folder / "sweeps/complete")
    assert [(line["values"]["optimizer.lr"], line["seed"]) for line in found] == [
        (rate, seed) for rate in (2**-7, 2**-6) for seed in (0, 1)
    ]
    for line in found:
        assert (line["d_model"], line["num_layers"], line["parametrization"]) == (32, 1, "mup")
        assert (line["num_tokens"], line["global_batch_size"], line["seq_len"]) == (4096, 8, 32)
        assert (line["status"], line["diverged_at"]) == ("finished", None)
        assert 0 < line["loss"] < 6 and 0 < line["val_loss"] < 6
        assert "budget_tokens" not in line
        assert not {name for name in line if "time" in name or name.endswith("_s")}
    asked = json.loads((folder / "sweeps/complete/sweep.json").read_text())
    assert asked["axes"] == {"optimizer.lr": [2**-7, 2**-6]}
    assert (asked["widths"], asked["depths"], asked["seeds"], asked["search"]) == ([32], [1], [0, 1], "grid")
    assert configs.load(folder / "sweeps/complete/config.yaml").model.vocab_size == 300
    assert (folder / "sweeps/complete/loss.png").read_bytes().startswith(b"\x89PNG")
    assert "4/4" in complete.err and "none left" in complete.err
    assert "2^-6" in complete.out and "4 of 4 trials" in complete.out


def test_a_trial_has_a_run_folder(complete: Ended, folder: Path) -> None:
    for line in results(folder / "sweeps/complete"):
        run = folder / "sweeps/complete" / TRIALS / line["trial"][:16]
        records = read_metrics(run / METRICS_FILE)
        assert [record["step"] for record in records] == [*range(1, NUM_STEPS + 1), NUM_STEPS]
        assert f"{NUM_STEPS} steps, from the start" in (run / LOGS / "rank-000.log").read_text()
        config = configs.load(run / "config.yaml")
        assert config.optimizer.lr == line["values"]["optimizer.lr"]
        assert config.train.seed == config.data.seed == line["seed"]


def test_a_law_can_be_fitted_to_the_trials_of_a_sweep(complete: Ended, folder: Path) -> None:
    runs, problems = read_runs([folder / "sweeps/complete"])
    assert not problems
    lines = {line["trial"][:16]: line for line in results(folder / "sweeps/complete")}
    assert {Path(run.name).name for run in runs} == lines.keys()
    for run in runs:
        line = lines[Path(run.name).name]
        assert (run.loss, run.num_params, run.num_tokens) == (line["val_loss"], line["num_params"], line["num_tokens"])
        assert (run.seed, run.parametrization, run.tokens_per_step) == (line["seed"], "mup", 8 * 32)
        assert run.loss_error is not None and run.num_held_out_samples == 8
        assert run.schedule is not None and run.schedule.warmup_tokens == 256
    assert len({(run.data_fingerprint, run.held_out_fingerprint, run.tokenizer_sha256) for run in runs}) == 1


@pytest.mark.long
def test_a_sweep_that_is_killed_and_run_again_ends_with_the_same_bytes(complete: Ended, folder: Path) -> None:
    out, more = folder / "sweeps/killed", ("--seeds", "0,1", "train.checkpoint_every=3")
    process = start("sweep", "tiny.yaml", "--out", "sweeps/killed", *TWO_RATES, *more, cwd=folder)
    try:
        wait_until(lambda: num_steps(out) > NUM_STEPS + 8 or process.poll() is not None, "no step is taken")
        descendants = psutil.Process(process.pid).children(recursive=True)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert len(descendants) >= 3, "two trials, and the server they are forked from"
    assert_gone(descendants)
    assert process.returncode == -signal.SIGKILL
    done = len(results(out))
    assert done < 4, "it was killed too late to show anything"
    again = sweep(folder, "sweeps/killed", *TWO_RATES, *more)
    assert again.status == EXIT_DONE, again.err
    assert (out / RESULTS_FILE).read_bytes() == (folder / "sweeps/complete" / RESULTS_FILE).read_bytes()


@contextmanager
def interrupted(out: Path, after_steps: int) -> Iterator[None]:
    """Ctrl-C after that number of steps in the block."""

    def ctrl_c() -> None:
        wait_until(lambda: num_steps(out) >= after_steps, "no step is taken")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=ctrl_c)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@pytest.mark.long
def test_ctrl_c_keeps_finished_trials_and_the_same_command_resumes(complete: Ended, folder: Path) -> None:
    out, command = folder / "sweeps/stopped", ("--seeds", "0,1", *TWO_RATES)
    before = set(psutil.Process().children(recursive=True))
    with interrupted(out, after_steps=2 * NUM_STEPS + 4):
        stopped = sweep(folder, "sweeps/stopped", *command)
    assert stopped.status == EXIT_RESUME
    assert "the same command resumes" in stopped.out
    assert 2 <= len(results(out)) < 4
    assert_gone(set(psutil.Process().children(recursive=True)) - before)
    again = sweep(folder, "sweeps/stopped", *command)
    assert again.status == EXIT_DONE, again.err
    assert "4 trials, 2 of them are done" in again.err
    assert (out / RESULTS_FILE).read_bytes() == (folder / "sweeps/complete" / RESULTS_FILE).read_bytes()


@pytest.mark.long
def test_another_sweep_in_the_same_folder_uses_the_results_that_exist(complete: Ended, folder: Path) -> None:
    shutil.copytree(folder / "sweeps/complete", folder / "sweeps/grown")
    other = sweep(folder, "sweeps/grown", "--over", "optimizer.lr=2^-8,2^-6", "train.log_every=1")
    assert other.status == EXIT_DONE
    assert "2 trials, 1 of them are done" in other.err
    assert "3 trials of other sweeps stay in sweeps/grown/trials" in other.out
    found, before = results(folder / "sweeps/grown"), results(folder / "sweeps/complete")
    assert [line["values"]["optimizer.lr"] for line in found] == [2**-8, 2**-6]
    assert found[1] == before[2]


def test_a_trial_that_diverges_has_a_result_and_ends_early(folder: Path) -> None:
    arguments = ("--over", "optimizer.lr=1e6", "train.num_tokens=2e6", "optimizer.clip_norm=0")
    ended = sweep(folder, "sweeps/diverged", *arguments)
    assert ended.status == EXIT_DONE, ended.err
    (line,) = results(folder / "sweeps/diverged")
    assert (line["status"], line["loss"], line["val_loss"]) == ("diverged", None, None)
    assert f"diverged at step {line['diverged_at']}" in ended.err
    assert line["diverged_at"] <= num_steps(folder / "sweeps/diverged") < 2e6 / 256 / 2
    assert read_runs([folder / "sweeps/diverged"]) == (
        [],
        [
            f"{folder}/sweeps/diverged/{TRIALS}/{line['trial'][:16]} diverged at step {line['diverged_at']}: train it "
            "with other settings, or leave it out"
        ],
    )
    # The files in the folder are enough: nothing is trained again.
    trial = folder / "sweeps/diverged" / TRIALS / line["trial"][:16]
    (trial / OUTCOME_FILE).unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delattr("foretrain.launcher.local.pool.started")
        assert trial_module.main(trial) == EXIT_DONE
    assert json.loads((trial / OUTCOME_FILE).read_text())["diverged_at"] == line["diverged_at"]


@pytest.mark.long
def test_a_trial_that_fails_is_named_and_the_others_continue(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        plan = make_plan(
            Ask(("optimizer.lr=2^-7..2^-6",)), lambda more: configs.load("tiny.yaml", more), Path("sweeps/failed")
        )
    trial = folder / "sweeps/failed" / TRIALS / plan.first[0].name
    trial.mkdir(parents=True)
    (trial / CHECKPOINTS).write_text("in the way")
    ended = sweep(folder, "sweeps/failed", *TWO_RATES)
    assert ended.status == EXIT_FAILED
    assert f"optimizer.lr=2^-7 FAILED ({trial.name}): rank 0 failed: " in ended.err
    assert "The last lines of" in ended.err and CHECKPOINTS in ended.err
    assert f"1 trials FAILED: {trial.name}" in ended.out
    assert [line["values"]["optimizer.lr"] for line in results(folder / "sweeps/failed")] == [2**-6]
    (trial / CHECKPOINTS).unlink()
    assert sweep(folder, "sweeps/failed", *TWO_RATES).status == EXIT_DONE
    assert len(results(folder / "sweeps/failed")) == 2


def test_a_trial_of_several_ranks_runs_alone_and_does_not_run_twice(complete: Ended, folder: Path) -> None:
    reference = results(folder / "sweeps/complete")[0]
    source = folder / "sweeps/complete" / TRIALS / reference["trial"][:16]
    trial = folder / "alone"
    trial.mkdir()
    config = configs.load(source / TRIAL_CONFIG, ["parallel.dp=2"])
    configs.save(config, trial / TRIAL_CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert trial_module.main(trial) == EXIT_DONE
        outcome = json.loads((trial / OUTCOME_FILE).read_text())
        assert outcome["loss"] == pytest.approx(reference["loss"], rel=1e-5)
        patch.delattr("foretrain.launcher.local.pool.started")
        assert trial_module.main(trial) == EXIT_DONE


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--over", "optimizer.weight_deca=1,2"], "did you mean optimizer.weight_decay?"),
        (["--over", "optimizer.lr=-1,2"], "lr = -1.0 must be greater than 0"),
        (["--over", "optimizer.lr=1", "--widths", "33"], "take a multiple of"),
        (["--over", "optimizer.lr=1", "--layout", "tp=3"], "parallel.tp = 3"),
        (["--over", "optimizer.lr=1", "--jobs", "0"], "--jobs 0: use 1 or more"),
        (["--over", "optimizer.lr=1", "--jobs", "4096"], "ranks are too many"),
        (["--over", "optimizer.lr=1", "data.path=nowhere"], "there is no corpus at nowhere"),
    ],
)
def test_a_sweep_that_cannot_run_is_refused_before_a_file_is_written(
    arguments: list[str], says: str, folder: Path
) -> None:
    ended = sweep(folder, "sweeps/refused", *arguments)
    assert_refused(ended, says, num_lines=3)
    assert not (folder / "sweeps/refused").exists()
