"""Synthetic ladders: losses over the windows of runs of growing size, with seeds and noise, whose truth is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from foretrain.scaling.laws.forms import Floats
from foretrain.scaling.prediction.curve import predicted_curve
from foretrain.scaling.prediction.shape import Curves, shape_of
from foretrain.trainer.prediction.curve import PredictedCurve
from foretrain.trainer.prediction.windows import EDGES, NUM_WINDOWS

MIDDLE_K = (EDGES[1:] + EDGES[:-1]) / 2
LAW_ERROR = 0.01
"""Standard deviation of the logarithm of the predicted final loss, without the noise of a seed."""
SCHEDULE = {"kind": "linear", "warmup_share": 0.1, "decay_share": 0.9, "min_factor": 0.0}


@dataclass(frozen=True)
class World:
    """How the losses of runs arise. Standard deviations are those of logarithms."""

    num_sizes: int = 5
    num_seeds: int = 3
    slope: float = 0.0
    """Change of the beginning of the shape, for a factor of e of compute."""
    bend: float = 0.0
    """Change of that slope, for a factor of e of compute: a line through some sizes is wrong for another."""
    size: float = 0.0
    """Deviation of one size from the common shape."""
    seed: float = 0.008
    """Deviation of one run, the same in all windows."""
    slow: float = 0.008
    """Deviation of one run that changes slowly."""
    own: float = 0.01
    """Deviation of one window."""
    target: float = 1e18
    """FLOPs of the run that is predicted."""

    @property
    def sizes(self) -> Floats:
        """FLOPs of the sizes of the ladder."""
        return np.geomspace(1e15, 1e17, self.num_sizes)

    def runs(self, random: np.random.Generator, flops: Sequence[float] | Floats) -> Curves:
        """Sound runs of these sizes; equal ones are seeds of one size."""
        log_compute_R = np.log(np.asarray(flops))
        count, sizes, size_R = len(log_compute_R), *np.unique(log_compute_R, return_inverse=True)
        final_R = np.log(1.8 + 1000 / np.exp(log_compute_R) ** 0.18)
        off_R1 = (log_compute_R - np.log(self.sizes).mean())[:, None]
        drift_R1 = self.slope * off_R1 + self.bend * off_R1**2
        shape_RK = np.log(0.65 + 0.35 * MIDDLE_K**-0.3) + drift_R1 * (1 - MIDDLE_K)
        seed_R1 = self.seed * random.standard_normal((count, 1))
        noise_RK = self.size * slow(random, len(sizes))[size_R] + self.slow * slow(random, count)
        noise_RK = noise_RK + seed_R1 + self.own * random.standard_normal((count, NUM_WINDOWS))
        log_final_R = final_R + seed_R1[:, 0] + 0.002 * random.standard_normal(count)
        names = tuple(f"run-{number}" for number in range(count))
        return Curves(log_compute_R, log_final_R, final_R[:, None] + shape_RK + noise_RK, names)

    def ladder(self, random: np.random.Generator) -> Curves:
        """The runs of a ladder."""
        return self.runs(random, np.repeat(self.sizes, self.num_seeds))

    def targets(self, random: np.random.Generator, count: int) -> Floats:
        """Means of sound runs of the target, which have one deviation of the size (R, K)."""
        return np.exp(self.runs(random, np.full(count, self.target)).log_mean_RK)

    def predicted(self, random: np.random.Generator, ladder: Curves) -> PredictedCurve:
        """The curve that is predicted from a ladder, whose law has an error."""
        loss = (1.8 + 1000 / self.target**0.18) * np.exp(LAW_ERROR * random.standard_normal())
        return predicted_curve(
            shape_of(ladder),
            ladder,
            loss=loss,
            intervals=bounds(loss, float(np.hypot(LAW_ERROR, self.seed))),
            mean_intervals=bounds(loss, LAW_ERROR),
            law_freedom=np.inf,
            flops=self.target,
            num_tokens=1e9,
            schedule=SCHEDULE,
        )


def slow(random: np.random.Generator, count: int) -> Floats:
    """Noise with a standard deviation of 1 that neighbouring windows share (count, K)."""
    number_K = np.arange(NUM_WINDOWS)
    root_KK = np.linalg.cholesky(0.9 ** np.abs(number_K[:, None] - number_K))
    return np.asarray(random.standard_normal((count, NUM_WINDOWS)) @ root_KK.T)


def bounds(loss: float, std: float) -> dict[str, list[float]]:
    """The intervals of a normal distribution, by level."""
    found: dict[str, Any] = {}
    for level in (0.8, 0.9, 0.95):
        width = std * stats.norm.ppf(0.5 + level / 2)
        found[f"{level:g}"] = [float(loss * np.exp(-width)), float(loss * np.exp(width))]
    return found
