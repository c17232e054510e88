"""`foretrain sweep` on a real Ray cluster."""

from pathlib import Path

import pytest

from foretrain.scaling.records import RESULTS_FILE
from foretrain.trainer.run.exit_status import EXIT_DONE
from tests.launcher.ray.conftest import RayCluster
from tests.scaling.sweep.tiny import sweep, users_folder


@pytest.mark.long
def test_it_ends_with_the_bytes_of_one_on_this_machine(cluster: RayCluster, tmp_path: Path, corpus: Path) -> None:
    folder = users_folder(tmp_path, corpus)
    options = ("--over", "optimizer.lr=2^-6", f"launch.ray.address={cluster.address}", "launch.cpus_per_rank=1")
    result = sweep(folder, "sweeps/ray", "--on", "ray", *options)
    assert result.status == EXIT_DONE, result.err
    assert sweep(folder, "sweeps/here", "--jobs", "2", *options).status == EXIT_DONE
    assert (folder / "sweeps/ray" / RESULTS_FILE).read_bytes() == (folder / "sweeps/here" / RESULTS_FILE).read_bytes()
