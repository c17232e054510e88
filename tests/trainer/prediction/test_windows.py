"""Means over windows: those of any number of steps agree, and a run that is stopped continues with the same."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain.trainer.prediction.windows import EDGES, NUM_WINDOWS, WindowMeans, means_of


def curve(num_steps: int) -> list[tuple[int, float]]:
    return [(step, 2.0 + (step / num_steps) ** -0.3) for step in range(1, num_steps + 1)]


@given(st.integers(1, 2_000))
def test_windows_of_any_number_of_steps_hold_all_that_was_trained_after_the_first_edge(num_steps: int) -> None:
    losses = curve(num_steps)
    mean_K = means_of(losses, num_steps)
    assert np.isfinite(mean_K).all()
    position = np.minimum(np.arange(num_steps + 1) / num_steps, 1.0)
    inside = np.clip(position[1:], EDGES[0], 1) - np.clip(position[:-1], EDGES[0], 1)
    assert mean_K @ np.diff(EDGES) == pytest.approx(inside @ [loss for _, loss in losses], rel=1e-9)


def test_runs_of_any_length_with_one_curve_have_the_same_means() -> None:
    long = means_of(curve(20_000), 20_000)
    assert means_of(curve(1_000), 1_000) == pytest.approx(long, rel=0.01)
    assert len(long) == NUM_WINDOWS and (np.diff(long) < 0).all()


@given(st.integers(1, 300), st.data())
def test_a_run_that_is_stopped_after_any_step_continues_with_the_same_means(
    num_steps: int, data: st.DataObject
) -> None:
    stop = data.draw(st.integers(0, num_steps))
    complete, parts = WindowMeans(), WindowMeans()
    completed = []
    for step, loss in curve(num_steps):
        completed += [windows.add((step - 1) / num_steps, step / num_steps, loss) for windows in (complete, parts)]
        if step == stop:
            parts = WindowMeans(**json.loads(json.dumps(parts.state())))
        np.testing.assert_array_equal(complete.means(), parts.means())
    assert 0 < sum(completed) / 2 <= NUM_WINDOWS and completed[-1]


def test_a_window_is_known_when_it_is_complete_and_if_most_of_it_is_known() -> None:
    windows = WindowMeans([0.0, 0.5, 1.0])
    assert not windows.add(0.0, 0.4, 3.0) and np.isnan(windows.means()).all()
    assert windows.add(0.4, 0.6, 3.0)
    assert windows.means().tolist()[:1] == [3.0] and np.isnan(windows.means()[1])
    assert windows.add(0.6, 1.0, float("nan")) and np.isnan(windows.means()[1])
