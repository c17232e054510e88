"""A run whose processes are killed again and again, at random moments, has the curve of one that never was."""

from pathlib import Path
from statistics import median

import pytest

from benchmarks.chaos.attack import MOMENTS, SLOWEST
from benchmarks.chaos.campaign import Campaign, Verdict
from benchmarks.chaos.target import NUM_STEPS

pytestmark = pytest.mark.long

SEED = 7
NUM_KILLS, NUM_KILLS_WITH_LAYOUTS = 50, 8
"""`python -m benchmarks.chaos` is the long form."""


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Campaign:
    return Campaign(tmp_path_factory.mktemp("chaos"), corpus)


def assert_spread(verdict: Verdict) -> None:
    """Assert that the run was killed all along its way, and not again and again in its first steps."""
    steps = [kill.step for kill in verdict.kills]
    assert median(steps) >= 0.4 * SLOWEST * NUM_STEPS
    assert max(steps) >= 0.8 * SLOWEST * NUM_STEPS


def test_a_run_that_is_killed_50_times_has_the_curve_of_a_calm_one_and_leaves_nothing(campaign: Campaign) -> None:
    verdict = campaign.attack(NUM_KILLS, changes_layout=False, seed=SEED)
    assert len(verdict.kills) == NUM_KILLS
    assert {kill.moment for kill in verdict.kills} == {*MOMENTS}
    assert_spread(verdict)
    assert {kill.victim for kill in verdict.kills} >= {"rank", "fork server", "main process", "supervisor"}
    assert verdict.has_same_records, verdict.record()
    assert verdict.left == []


def test_a_run_with_another_layout_after_each_kill_has_the_curve_within_float_noise(campaign: Campaign) -> None:
    verdict = campaign.attack(NUM_KILLS_WITH_LAYOUTS, changes_layout=True, seed=SEED)
    assert len(verdict.kills) == NUM_KILLS_WITH_LAYOUTS
    assert len({*verdict.layouts}) > 3
    assert_spread(verdict)
    assert verdict.passed, verdict.record()
