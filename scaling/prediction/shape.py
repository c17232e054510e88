"""The common shape of the loss curves of runs of growing size. Pure.

If hyperparameters are scaled right, the training loss over the share of the tokens, divided by the final held-out loss,
is about the same at every size (arXiv 2507.02119). A shape is the mean of the logarithms of these ratios, and a line in
log compute for each window, if such lines predict the larger runs from the smaller ones better than means do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from foretrain.scaling.laws.forms import Floats
from foretrain.trainer.prediction.course import Noise

LEAST_FREEDOM = 3
"""With fewer replicates, the noise of seeds is not known apart from that of sizes."""
SMOOTHED = 3
"""Variances are means over as many windows on both sides, since a few runs show that of one window badly."""
LAGS = 20
"""Distances of windows whose correlations are fitted."""
DECAYS = (0.5, 0.7, 0.8, 0.9, 0.95)
"""The correlations of neighbouring windows that are tried."""
LEAST_STD = 1e-4


@dataclass(frozen=True)
class Curves:
    """The curves of runs, in logarithms."""

    log_compute_R: Floats
    """The FLOPs of each run."""
    log_final_R: Floats
    """The final held-out loss of each run."""
    log_mean_RK: Floats
    """The mean training loss of each run in each window."""
    names: tuple[str, ...] = ()

    @property
    def ratios(self) -> Floats:
        """The logarithms of the training losses over the final held-out loss of the same run."""
        return self.log_mean_RK - self.log_final_R[:, None]

    def only(self, rows: Sequence[int]) -> "Curves":
        """The curves of some of the runs."""
        rows = list(rows)
        return replace(
            self,
            log_compute_R=self.log_compute_R[rows],
            log_final_R=self.log_final_R[rows],
            log_mean_RK=self.log_mean_RK[rows],
            names=tuple(self.names[row] for row in rows) if self.names else (),
        )


@dataclass(frozen=True)
class Trend:
    """A value in each window that is constant, or linear in log compute."""

    center: float
    """The mean of the logarithms of compute."""
    spread: float
    """The sum of the squares of the distances from it; 0: the value is constant."""
    count: int
    mean_K: Floats
    slope_K: Floats

    @classmethod
    def of(cls, log_compute_N: Floats, value_NK: Floats, *, is_linear: bool) -> "Trend":
        """The least-squares trend."""
        center = float(log_compute_N.mean())
        off_N, mean_K = log_compute_N - center, value_NK.mean(0)
        if not is_linear:
            return cls(center, 0.0, len(off_N), mean_K, np.zeros_like(mean_K))
        spread = float(off_N @ off_N)
        return cls(center, spread, len(off_N), mean_K, off_N @ (value_NK - mean_K) / spread)

    @property
    def num_parameters(self) -> int:
        """Numbers that are fitted for each window."""
        return 2 if self.spread else 1

    def at(self, log_compute_N: Floats) -> Floats:
        """The values (N, K)."""
        return np.asarray(self.mean_K + (np.asarray(log_compute_N)[..., None] - self.center) * self.slope_K)

    def leverage(self, log_compute: float) -> float:
        """The variance of a value by the fit, for observations with a variance of 1."""
        return 1.0 / self.count + ((log_compute - self.center) ** 2 / self.spread if self.spread else 0.0)


def drifts(log_compute_G: Floats, value_GK: Floats) -> bool:
    """Whether lines predict the larger sizes (G, small to large) from the smaller ones better than means do.

    Each size from the third on is predicted from all smaller ones.
    """
    errors = []
    for is_linear in (False, True):
        parts = [
            Trend.of(log_compute_G[:size], value_GK[:size], is_linear=is_linear).at(log_compute_G[size : size + 1])[0]
            - value_GK[size]
            for size in range(2, len(log_compute_G))
        ]
        errors.append(sum(float(part @ part) for part in parts))
    return errors[1] < errors[0]


@dataclass(frozen=True)
class Shape:
    """The common shape, and how far the curve of one run is from it."""

    trend: Trend
    """The logarithm of the ratio; seeds of one size are averaged first."""
    size_K: Floats
    """The standard deviation of the means of sizes around the trend."""
    size_freedom: int
    seed_K: Floats | None
    """The standard deviation of the logarithm of the training loss by the seed; None: there are too few replicates."""
    seed_freedom: int
    noise: Noise
    """Its correlations, for a size of the fit; its level is 0."""

    @property
    def is_drifting(self) -> bool:
        """Whether the shape depends on size."""
        return self.trend.spread > 0

    def std(self, log_compute: float) -> Floats:
        """The standard deviation of the curve of one run of a size around the shape."""
        variance_K = self.size_K**2 * (1.0 + self.trend.leverage(log_compute))
        if self.seed_K is not None:
            variance_K = variance_K + self.seed_K**2
        return np.asarray(np.sqrt(np.maximum(variance_K, LEAST_STD**2)))

    def freedom(self, log_compute: float) -> float:
        """Degrees of freedom of that variance, by Satterthwaite's formula."""
        size = float(np.mean(self.size_K**2)) * (1.0 + self.trend.leverage(log_compute))
        seed = 0.0 if self.seed_K is None else float(np.mean(self.seed_K**2))
        parts = size**2 / self.size_freedom + (seed**2 / self.seed_freedom if seed else 0.0)
        return (size + seed) ** 2 / parts if parts > 0 else float(self.size_freedom)


def shape_of(curves: Curves) -> Shape:
    """The shape of the curves of runs of at least two sizes. Raises ValueError if they are of one size."""
    log_compute_G, size_R = np.unique(curves.log_compute_R, return_inverse=True)
    if len(log_compute_G) < 2:
        raise ValueError("all runs have one size, which does not show how the shape of a curve depends on it")
    mean_GK = np.array([curves.ratios[size_R == size].mean(0) for size in range(len(log_compute_G))])
    is_linear = len(log_compute_G) > 2 and drifts(log_compute_G, mean_GK)
    trend = Trend.of(log_compute_G, mean_GK, is_linear=is_linear)
    of_size_GK = mean_GK - trend.at(log_compute_G)
    size_freedom = len(log_compute_G) - trend.num_parameters
    size_K = std_of(of_size_GK, size_freedom)
    mean_loss_GK = np.array([curves.log_mean_RK[size_R == size].mean(0) for size in range(len(log_compute_G))])
    of_seed_RK, seed_freedom = curves.log_mean_RK - mean_loss_GK[size_R], len(size_R) - len(log_compute_G)
    seed_K = std_of(of_seed_RK, seed_freedom) if seed_freedom >= LEAST_FREEDOM else None
    series_NK = of_size_GK if seed_K is None else np.concatenate([of_size_GK, of_seed_RK])
    total_K = np.sqrt(np.maximum(size_K**2 + (0.0 if seed_K is None else seed_K**2), LEAST_STD**2))
    noise = Noise(0.0, total_K.tolist(), *correlations(series_NK / total_K))
    return Shape(trend, size_K, size_freedom, seed_K, seed_freedom, noise)


def std_of(off_NK: Floats, freedom: int) -> Floats:
    """The standard deviation in each window, smoothed."""
    variance_K = (off_NK**2).sum(0) / freedom
    count = np.ones(2 * SMOOTHED + 1)
    sums_K = np.convolve(variance_K, count, mode="same") / np.convolve(np.ones_like(variance_K), count, mode="same")
    return np.asarray(np.sqrt(sums_K))


def correlations(series_NK: Floats) -> tuple[float, float, float]:
    """The shares `constant` and `slow`, and `decay`, of `Noise`, by the products of windows of the series."""
    return fitted_correlations(autocorrelations(series_NK))


def autocorrelations(series_NK: Floats) -> Floats:
    """The mean product of windows at each distance up to LAGS, over that of a window with itself (L); 0 if all is 0."""
    power = float((series_NK**2).mean())
    if power == 0.0:
        return np.zeros(LAGS)
    return np.array([(series_NK[:, lag:] * series_NK[:, :-lag]).mean() for lag in range(1, LAGS + 1)]) / power


def fitted_correlations(found_L: Floats) -> tuple[float, float, float]:
    """The shares `constant` and `slow`, and `decay`, of `Noise`, that fit autocorrelations."""
    lag_L = np.arange(1, LAGS + 1)
    best = (np.inf, 0.0, 0.0, DECAYS[0])
    for decay in DECAYS:
        for constant in np.linspace(0.0, 0.95, 20):
            slope_L = decay**lag_L
            slow = float(np.clip((found_L - constant) @ slope_L / (slope_L @ slope_L), 0.0, 0.98 - constant))
            error = float(((found_L - constant - slow * slope_L) ** 2).sum())
            best = min(best, (error, float(constant), slow, decay))
    return best[1:]


def student(freedom: float, level: float) -> float:
    """The quantile of Student's distribution for an interval of that level."""
    return float(stats.t.ppf(0.5 + 0.5 * level, freedom))
