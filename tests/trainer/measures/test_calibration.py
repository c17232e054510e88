"""How well probabilities hold: the counts of predictions by their confidence, and those of a model."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from foretrain.trainer.measures.calibration import NUM_BINS, Calibration
from foretrain.trainer.measures.held_out import predictions
from foretrain.trainer.text.network import StageNetwork

SHARES = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


def calibration_of(predictions: list[tuple[float, bool]]) -> Calibration:
    found = Calibration()
    found.add(np.array([each[0] for each in predictions]), np.array([each[1] for each in predictions]))
    return found


def test_the_error_is_the_distance_of_confidence_and_accuracy_weighted_by_predictions() -> None:
    sure = [(0.9, number < 6) for number in range(10)]  # right in 60 %: 0.3 too sure
    unsure = [(0.25, number < 8) for number in range(20)]  # right in 40 %: 0.15 too unsure
    found = calibration_of([*sure, *unsure])
    assert found.expected_error == pytest.approx((10 * 0.3 + 20 * 0.15) / 30)
    assert (found.accuracy, found.num_predictions) == (pytest.approx(14 / 30), 30)
    assert [(row["predictions"], row["confidence"], row["accuracy"]) for row in found.rows()] == [
        (20, pytest.approx(0.25), pytest.approx(0.4)),
        (10, pytest.approx(0.9), pytest.approx(0.6)),
    ]
    assert math.isnan(Calibration().expected_error) and math.isnan(Calibration().accuracy)


@given(SHARES, SHARES)
def test_counts_do_not_depend_on_how_predictions_are_batched(
    first: list[tuple[float, bool]], rest: list[tuple[float, bool]]
) -> None:
    together, apart = calibration_of([*first, *rest]), calibration_of(first)
    apart.add(np.array([[each[0] for each in rest]]), np.array([[each[1] for each in rest]]))
    assert apart.expected_error == pytest.approx(together.expected_error)
    assert 0 <= together.expected_error <= 1
    assert sum(row["predictions"] for row in together.rows()) == len(first) + len(rest)
    for row in together.rows():
        assert row["from"] - 1e-9 <= row["confidence"] <= row["to"] + 1e-9


class Known(nn.Module):
    """A model that gives the same probabilities for the next token, whatever came before."""

    def __init__(self, probabilities: list[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(probabilities).log() + 3.0)

    def forward(self, tokens_BL: Tensor, positions: Any) -> Tensor:
        return self.logits.expand(tokens_BL.shape[1], tokens_BL.shape[0], -1)


@pytest.mark.parametrize(("truth", "error"), [([0.7, 0.2, 0.1], 0.0), ([0.5, 0.3, 0.2], 0.2), ([0.1, 0.8, 0.1], 0.6)])
def test_the_calibration_of_a_model_with_known_probabilities_is_that_of_the_closed_form(
    truth: list[float], error: float
) -> None:
    """The model gives 0.7, 0.2 and 0.1. The data have each token as often as `truth` says."""
    said = [0.7, 0.2, 0.1]
    counts = torch.tensor([round(40 * share) for share in truth])
    targets_BL = torch.arange(3).repeat_interleave(counts).view(4, 10)
    model: Any = SimpleNamespace(network=StageNetwork(Known(said)))
    loss_BL, confidence_BL, is_right_BL = predictions(model, torch.zeros_like(targets_BL), targets_BL, None)
    assert loss_BL.mean() == pytest.approx(-sum(share * math.log(p) for share, p in zip(truth, said, strict=True)))
    found = Calibration()
    found.add(confidence_BL, is_right_BL)
    assert found.expected_error == pytest.approx(error, abs=1e-6)
    assert found.accuracy == pytest.approx(truth[0])
    assert found.rows()[0]["from"] == pytest.approx(math.floor(0.7 * NUM_BINS) / NUM_BINS)
