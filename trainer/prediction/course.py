"""Whether a loss curve stays where it is expected: its distance in standard deviations, and two tests. Pure.

The logarithm of the mean loss in window k is taken as expected_k + noise_k, where the noise of a sound run has a normal
distribution with mean 0 and the covariance

    level^2 + std_k * std_l * (constant + slow * decay^|k - l| + (1 - constant - slow) * [k = l]).

`level` is the uncertainty of the loss that the curve ends at, which is common to all windows, `constant` what else is
common to all of them, such as the seed of the weights, `slow` what neighbouring windows share, and the rest is theirs
alone.

Two exponentially weighted averages are compared with limits. The first is that of the distances: it finds a curve that
is outside of the band. The second is that of the innovations, which are the distances from what the windows before let
expect (the covariance is divided by Cholesky's method): it finds a change inside a wide band. The limits are those that
sound runs exceed in any of their windows with a probability that is chosen, half of it for each of the two.
"""

from dataclasses import dataclass

import numpy as np

from foretrain.trainer.prediction.windows import Floats

LEVEL_WEIGHT, CHANGE_WEIGHT = 0.4, 0.2
"""Weight of the newest window in the averages: they remember about 1 / weight windows."""


@dataclass(frozen=True)
class Noise:
    """How far the curve of a sound run is from the expected one, in the logarithm of the loss."""

    level: float
    """Standard deviation of an error that is common to all windows."""
    std: list[float]
    """Standard deviation of everything else in each window."""
    constant: float
    """Share of it that is common to all windows. It may be more than is measured, since few runs show it badly."""
    slow: float
    """Share of it that neighbouring windows have in common."""
    decay: float
    """How much of that is common to two neighbours."""

    def covariance(self) -> Floats:
        """The covariance of the windows (K, K)."""
        std_K = np.array(self.std)
        number_K = np.arange(len(std_K))
        lag_KK = np.abs(number_K[:, None] - number_K)
        own = max(1.0 - self.constant - self.slow, 1e-3)
        share_KK = self.constant + self.slow * self.decay**lag_KK + own * (lag_KK == 0)
        return np.asarray(self.level**2 + std_K[:, None] * std_K * share_KK)


@dataclass(frozen=True)
class Averages:
    """The weighted averages of curves after each of their windows (B, K)."""

    level_BK: Floats
    change_BK: Floats


def distances(noise: Noise, off_BK: Floats) -> Floats:
    """How far curves are from the expected one, in standard deviations (B, K). `off_BK`: differences of logarithms."""
    return off_BK / np.sqrt(np.diag(noise.covariance()))


def averages(covariance_KK: Floats, off_BK: Floats) -> Averages:
    """The averages of curves that are `off_BK` away from the expected one, in the logarithm of the loss."""
    inverse_KK = np.linalg.inv(np.linalg.cholesky(covariance_KK))  # triangular: an innovation knows no later window
    return Averages(
        _average(off_BK / np.sqrt(np.diag(covariance_KK)), LEVEL_WEIGHT),
        _average(off_BK @ inverse_KK.T, CHANGE_WEIGHT),
    )


def _average(value_BK: Floats, weight: float) -> Floats:
    """Exponentially weighted averages that begin at 0, over their standard deviation for independent values."""
    found_BK = np.empty_like(value_BK)
    average_B = np.zeros(len(value_BK))
    for number, value_B in enumerate(value_BK.T):
        average_B = (1.0 - weight) * average_B + weight * value_B
        variance = weight / (2.0 - weight) * (1.0 - (1.0 - weight) ** (2 * (number + 1)))
        found_BK[:, number] = average_B / np.sqrt(variance)
    return found_BK
