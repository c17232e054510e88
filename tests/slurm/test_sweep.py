"""`foretrain sweep` on a real Slurm."""

import os
import signal
from pathlib import Path

import pytest

from foretrain.launcher.launches import launches
from foretrain.scaling.records import RESULTS_FILE
from foretrain.scaling.trials.cluster import BATCH
from foretrain.trainer.run.exit_status import EXIT_DONE
from tests.cli import called, start
from tests.processes import assert_none, wait_until
from tests.scaling.sweep.tiny import TWO_RATES, sweep, users_folder
from tests.slurm.cluster.cluster import Cluster

ARGUMENTS = (*TWO_RATES, "launch.cpus_per_rank=1")


@pytest.mark.long
def test_killed_and_run_again_it_joins_its_trials_and_ends_with_the_bytes_of_one_on_this_machine(
    slurm: Cluster, tmp_path: Path, corpus: Path
) -> None:
    folder = users_folder(tmp_path, corpus)
    out, conf = folder / "sweeps/slurm", slurm.env["SLURM_CONF"]
    command = ("sweep", "tiny.yaml", "--out", "sweeps/slurm", "--on", "slurm", *ARGUMENTS)
    process = start(*command, cwd=folder, SLURM_CONF=conf)
    try:
        wait_until(lambda: (out / BATCH).exists() and launches(out / BATCH) != [])
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    result = called(*command, cwd=folder, SLURM_CONF=conf)
    assert result.status == EXIT_DONE, result.err
    assert len(launches(out / BATCH)) == 1, "the trials were started again"
    assert_none(folder)
    assert sweep(folder, "sweeps/here", *ARGUMENTS).status == EXIT_DONE
    assert (out / RESULTS_FILE).read_bytes() == (folder / "sweeps/here" / RESULTS_FILE).read_bytes()
