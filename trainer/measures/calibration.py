"""Calibration: whether what a model holds for likely is right as often as it says. Pure arithmetic.

A prediction of the next token has a confidence, the probability of the most likely token, and is right if this is the
token that follows. Predictions are counted in bins of equal width by their confidence. The expected calibration error
is the mean over predictions of the distance between the mean confidence and the share of right predictions of their bin
(arXiv 1706.04599, equation 3). Of a perfectly calibrated model, it goes to 0 with the number of predictions.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
NUM_BINS = 15


def _zeros() -> Floats:
    return np.zeros(NUM_BINS)


@dataclass
class Calibration:
    """Counts of predictions by their confidence, in bins from 0 to 1; arrays of shape (NUM_BINS,)."""

    count: Floats = field(default_factory=_zeros)
    confidence_sum: Floats = field(default_factory=_zeros)
    num_right: Floats = field(default_factory=_zeros)

    def add(self, confidences: npt.NDArray[Any], is_right: npt.NDArray[Any]) -> None:
        """Count predictions with these confidences, from 0 to 1; both arrays have the same shape."""
        values = confidences.ravel().astype(np.float64)
        bins = np.minimum((values * NUM_BINS).astype(np.int64), NUM_BINS - 1)
        self.count += np.bincount(bins, minlength=NUM_BINS)
        self.confidence_sum += np.bincount(bins, weights=values, minlength=NUM_BINS)
        self.num_right += np.bincount(bins, weights=is_right.ravel().astype(np.float64), minlength=NUM_BINS)

    @property
    def num_predictions(self) -> int:
        """Predictions in all bins."""
        return int(self.count.sum())

    @property
    def accuracy(self) -> float:
        """The share of right predictions; NaN without predictions."""
        return float(self.num_right.sum() / self.count.sum()) if self.num_predictions else float("nan")

    @property
    def expected_error(self) -> float:
        """The expected calibration error, from 0 to 1; NaN without predictions."""
        if not self.num_predictions:
            return float("nan")
        return float(np.abs(self.num_right - self.confidence_sum).sum() / self.count.sum())

    def rows(self) -> list[dict[str, float]]:
        """The bins that have predictions: `from`, `to`, `predictions`, mean `confidence` and `accuracy`."""
        return [
            {
                "from": number / NUM_BINS,
                "to": (number + 1) / NUM_BINS,
                "predictions": int(self.count[number]),
                "confidence": float(self.confidence_sum[number] / self.count[number]),
                "accuracy": float(self.num_right[number] / self.count[number]),
            }
            for number in np.flatnonzero(self.count).tolist()
        ]
