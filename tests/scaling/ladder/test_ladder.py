"""`foretrain ladder` with real runs: tiny ones, killed and run again."""

import os
import re
import signal
import time
from pathlib import Path

import psutil
import pytest

from foretrain.scaling.records import TRIALS
from foretrain.scaling.trials.record import OUTCOME_FILE
from foretrain.trainer.metrics import METRICS_FILE, read_metrics
from foretrain.trainer.run.exit_status import EXIT_DONE
from foretrain.trainer.run.folder import newest_checkpoint
from tests.cli import DEADLINE_S, start
from tests.processes import assert_gone
from tests.scaling.ladder.tiny import LADDER, ladder, users_folder
from tests.scaling.sweep.tiny import results


@pytest.mark.long
def test_a_ladder_that_is_killed_and_run_again_has_a_loss_for_every_rung_and_seed(tmp_path: Path, corpus: Path) -> None:
    folder, out = users_folder(tmp_path / "user", corpus), tmp_path / "user/ladders/small"
    run, more = out / TRIALS / "rung-2-seed-0", ("--jobs", "2", "train.checkpoint_every=20")
    command = start("ladder", "target.yaml", "--out", "ladders/small", *LADDER, *more, cwd=folder)
    try:
        deadline_s = time.monotonic() + DEADLINE_S
        while newest_checkpoint(run) is None:
            assert command.poll() is None, command.communicate()
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        descendants = psutil.Process(command.pid).children(recursive=True)
    finally:
        os.kill(command.pid, signal.SIGKILL)
        shown, _ = command.communicate()
    assert_gone(descendants)
    assert "the target costs 49.9 times the largest rung" in shown, "the plan is shown before the runs start"
    done = {path: path.stat().st_mtime_ns for path in out.glob(f"{TRIALS}/*/{OUTCOME_FILE}")}
    assert done, "the second rung starts when a run of the first has ended"
    assert run / OUTCOME_FILE not in done, "it was killed too late to show anything"

    again = ladder(folder, "ladders/small", *LADDER, *more)
    assert again.status == EXIT_DONE, again.err
    assert f"4 trials, {len(done)} of them are done" in again.err
    assert all(path.stat().st_mtime_ns == at for path, at in done.items())
    found = results(out)
    assert [(line["d_model"], line["seed"], line["status"]) for line in found] == [
        (width, seed, "finished") for width in (8, 16) for seed in (0, 1)
    ]
    small, small_too, large, large_too = (line["val_loss"] for line in found)
    assert max(large, large_too) < min(small, small_too) < 2, "the wider model has learned more, whatever the seed"
    assert small != small_too and large != large_too, "a seed has other weights"
    trained = [record["step"] for record in read_metrics(run / METRICS_FILE) if record["kind"] == "train"]
    assert trained == [*range(1, 241)]
    starts = re.findall(r"240 steps, from (.*)", (run / "logs/rank-000.log").read_text())
    assert starts[0] == "the start" and re.fullmatch(r"step [1-9]\d*", starts[1]), starts
