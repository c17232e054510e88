"""A run whose processes are killed again and again, at random moments, has the curve of one that never was.

`python -m benchmarks.chaos` is the long form.
"""

import json
from statistics import median
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.chaos.__main__ import app
from benchmarks.chaos.attack import MOMENTS, SLOWEST
from benchmarks.chaos.target import NUM_STEPS

pytestmark = pytest.mark.long

SEED = 7
NUM_KILLS = 50
"""Kills of each run: one that keeps its layout, and one that has another layout at each start."""
NUM_AT_ONCE = 4
"""Kills that may follow each other at once: the command is killed, and then others of its processes before they end."""


def assert_spread(steps: list[int]) -> None:
    """Assert that the run was killed all along its way, and not again and again in its first steps."""
    allowed = NUM_AT_ONCE / len(steps)
    assert median(steps) >= SLOWEST * NUM_STEPS * (0.5 - allowed)
    assert max(steps) >= SLOWEST * NUM_STEPS * (1 - allowed)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of the benchmark: a header, a run with one layout, one with many, and a summary."""
    out = tmp_path_factory.mktemp("chaos") / "out.jsonl"
    kills = ["--kills", str(2 * NUM_KILLS), "--per-run", str(NUM_KILLS)]
    ended = CliRunner().invoke(app, [*kills, "--seed", str(SEED), "--out", str(out)])
    assert ended.exit_code == 0, ended.output
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_a_run_that_is_killed_50_times_has_the_curve_of_a_calm_one_and_leaves_nothing(
    lines: list[dict[str, Any]],
) -> None:
    header, run, _, summary = lines
    assert header["kills"] == summary["kills"] == 2 * NUM_KILLS
    assert (summary["runs"], summary["failed_runs"]) == (2, 0)
    assert (run["kills"], run["changes_layout"], run["passed"], run["left"]) == (NUM_KILLS, False, True, [])
    assert run["curve_different_steps"] == 0
    assert_spread(run["steps_at_kills"])
    assert run["by_moment"].keys() == {*MOMENTS}
    assert run["by_victim"].keys() >= {"rank", "fork server", "main process", "supervisor"}
    assert sum(run["by_victim"].values()) == sum(run["by_moment"].values()) == NUM_KILLS


def test_a_run_that_is_killed_50_times_with_another_layout_at_each_start_has_the_curve_within_float_noise(
    lines: list[dict[str, Any]],
) -> None:
    run = lines[2]
    assert (run["kills"], run["changes_layout"]) == (NUM_KILLS, True)
    assert len(run["layouts"]) > 3
    assert_spread(run["steps_at_kills"])
    assert run["passed"], run
