"""What the curve of one more run is expected to be, by other runs of several sizes and seeds. Pure.

In each window, the value of a run is a trend over log compute, plus a deviation that all runs of its size share, plus
its own. The expected value of one more run is the best linear unbiased prediction of this model (Henderson, Biometrics
31, 1975): the trend, and of the deviation of its size what other runs of that size show. So runs of one size count as
one where the trend is concerned, and a run far from the others has all the uncertainty of a line beyond its points.
"""

from dataclasses import dataclass

import numpy as np

from foretrain.scaling.laws.forms import Floats
from foretrain.scaling.prediction.shape import (
    LEAST_FREEDOM,
    LEAST_STD,
    Trend,
    autocorrelations,
    drifts,
    fitted_correlations,
    std_of,
)
from foretrain.trainer.prediction.course import Noise


@dataclass(frozen=True)
class Expected:
    """The expected curve of one more run."""

    value_K: Floats
    noise: Noise
    """How far a sound run is from it."""
    freedom: float
    """Degrees of freedom of the variance of that."""
    run_freedom: int
    """Runs beyond the parameters of the trend."""


def expected(log_compute_N: Floats, value_NK: Floats, log_compute: float) -> Expected | None:
    """The expected curve of one more run of a size; None if the others are all of one other size."""
    size_G, size_N = np.unique(log_compute_N, return_inverse=True)
    if len(size_G) < 2 and log_compute != size_G[0]:
        return None
    mean_GK = np.array([value_NK[size_N == size].mean(0) for size in range(len(size_G))])
    is_linear = len(size_G) > 2 and drifts(size_G, mean_GK)
    num_parameters = 2 if is_linear else 1
    run_freedom, size_freedom = len(value_NK) - num_parameters, len(size_G) - num_parameters
    off_GK = mean_GK - Trend.of(size_G, mean_GK, is_linear=is_linear).at(size_G)
    own_NK, own_freedom = value_NK - mean_GK[size_N], len(size_N) - len(size_G)
    if own_freedom < LEAST_FREEDOM:
        # Too few replicates to know what a run deviates from its size: each run is taken as a size of its own.
        own_NK = value_NK - Trend.of(log_compute_N, value_NK, is_linear=is_linear).at(log_compute_N)
        own_freedom, size_freedom = run_freedom, 0
    own_K = np.maximum(std_of(own_NK, own_freedom), LEAST_STD)
    shared_K = size_K = np.zeros_like(own_K)
    if size_freedom:
        size_K = np.maximum(std_of(off_GK, size_freedom), LEAST_STD)
        # The mean of a size has its deviation, and a part of those of its runs.
        part = float(np.mean(1.0 / np.bincount(size_N)))
        shared_K = np.sqrt(np.maximum(size_K**2 - part * own_K**2, 0.0))
    value_K, variance_K = _predicted(log_compute_N, value_NK, log_compute, is_linear, shared_K, own_K)
    own, total = float(np.mean(own_K**2)), float(np.mean(variance_K))
    found_L, freedom = autocorrelations(own_NK / own_K), float(own_freedom)
    if size_freedom:
        share = own / total
        found_L = share * found_L + (1.0 - share) * autocorrelations(off_GK / size_K)
        freedom = total**2 / ((total - own) ** 2 / size_freedom + own**2 / own_freedom)  # Satterthwaite's formula
    noise = Noise(0.0, np.sqrt(variance_K).tolist(), *fitted_correlations(found_L))
    return Expected(value_K, noise, freedom, run_freedom)


def _predicted(
    log_compute_N: Floats, value_NK: Floats, log_compute: float, is_linear: bool, shared_K: Floats, own_K: Floats
) -> tuple[Floats, Floats]:
    """The best linear unbiased prediction of one more run, and the variance of its error (K).

    `shared_K`, `own_K`: standard deviations of the deviation of a size, and of a run from its size.
    """
    center = log_compute_N.mean()
    basis_NP = np.stack([np.ones_like(log_compute_N), log_compute_N - center][: 1 + is_linear], axis=1)
    basis_P = np.array([1.0, log_compute - center][: 1 + is_linear])
    same_NN, same_N = log_compute_N[:, None] == log_compute_N, log_compute_N == log_compute
    shared_K11, own_K11 = shared_K[:, None, None] ** 2, own_K[:, None, None] ** 2
    inverse_KNN = np.linalg.inv(shared_K11 * same_NN + own_K11 * np.eye(len(same_N)))
    weight_KN = (shared_K[:, None] ** 2 * same_N)[:, None, :] @ inverse_KNN
    weight_KN = weight_KN[:, 0]
    information_KPP = basis_NP.T @ inverse_KNN @ basis_NP
    trend_KP = np.linalg.solve(information_KPP, (basis_NP.T @ inverse_KNN @ value_NK.T[:, :, None]))[..., 0]
    rest_KN = value_NK.T - trend_KP @ basis_NP.T
    gap_KP = basis_P - weight_KN @ basis_NP
    value_K = trend_KP @ basis_P + (weight_KN * rest_KN).sum(1)
    unknown_K = shared_K**2 * (1.0 - weight_KN @ same_N)
    slack_K = (gap_KP * np.linalg.solve(information_KPP, gap_KP[..., None])[..., 0]).sum(1)
    return value_K, own_K**2 + unknown_K + slack_K
