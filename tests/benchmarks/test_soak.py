"""Tests of what the soak measures, and of how it judges that."""

import mmap
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.soak.__main__ import app
from benchmarks.soak.judge import growth, peak
from benchmarks.soak.plugin import memory_kib

FLAT = [{"step": step, "now": 1000 + step % 3, "most": 1100} for step in range(0, 1000, 100)]


def test_memory_that_grows_only_at_first_is_flat() -> None:
    lines = [{"step": 0, "now": 10, "most": 10}, *FLAT[1:]]
    assert growth(lines, 100) < 0.003 < growth(lines, 0)


@pytest.mark.parametrize("last", [1021, 979])
def test_memory_that_grows_or_shrinks_later_is_not_flat(last: int) -> None:
    assert growth([*FLAT, {"step": 1000, "now": last, "most": 1100}], 500) > 0.018


def test_the_peak_is_the_highest_of_a_start() -> None:
    assert peak([*FLAT, {"step": 1000, "now": 5, "most": 1200}]) == 1200


def test_a_run_without_measurements_is_an_error_and_not_flat() -> None:
    with pytest.raises(ValueError, match="no memory was measured from step 2000 on"):
        growth(FLAT, 2000)
    with pytest.raises(ValueError, match="no memory was measured"):
        peak([])


def test_a_folder_with_other_runs_is_refused_since_their_memory_would_count(tmp_path: Path) -> None:
    ended = CliRunner().invoke(app, ["--work", str(tmp_path)])
    assert ended.exit_code == 2 and "is there already: give a new folder" in " ".join(
        ended.output.replace("│", " ").split()
    )


def test_memory_that_a_process_takes_is_measured_and_remembered() -> None:
    size = 64 << 20
    before = memory_kib()
    with mmap.mmap(-1, size) as leaked:
        leaked.write(b"x" * size)
        during = memory_kib()
    after = memory_kib()
    assert during["now"] - before["now"] > 0.9 * size / 1024
    assert after["now"] < during["now"] - 0.9 * size / 1024 and after["most"] >= during["now"]
