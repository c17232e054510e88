"""The best learning rate and batch for a size, from grids over them at smaller sizes. Pure.

Near its optimum, the logarithm of the loss of a size is taken as quadratic in the logarithms of the settings, with the
same curvature at every size and an optimum that moves as a power law of the size (arXiv 2503.04715 finds such laws for
the learning rate and the batch). All sizes are fitted at once, by linear least squares: few runs of one size are near
its optimum, and the noise of a run is as large as the loss between neighbours on a grid.

Shapes: R runs, H settings, V variables of the size.
"""

from dataclasses import dataclass

import numpy as np

from foretrain.scaling.laws.forms import Floats

NEAR = 0.01
"""Runs are used whose loss is at most this share above the lowest of their size: farther away the loss is not
quadratic, and within less the noise of runs, about 0.2 %, decides which are used."""


@dataclass(frozen=True)
class OptimumLaw:
    """Power laws of the best settings over the size."""

    middle_V: Floats
    """The mean logarithm of each variable of the size."""
    setting_H: Floats
    """The logarithms of the best settings at the size `middle_V`."""
    exponents_HV: Floats
    """The exponents of the best settings."""
    curvature_HH: Floats
    """The second derivatives of the logarithm of the loss by the logarithms of the settings."""
    std: float
    """The standard deviation of the logarithms of the losses from the fit."""

    def at(self, size_V: Floats) -> Floats:
        """The best settings (H) for a size."""
        return np.asarray(np.exp(self.setting_H + self.exponents_HV @ (np.log(size_V) - self.middle_V)))


def fit_optima(size_RV: Floats, setting_RH: Floats, loss_R: Floats, near: float = NEAR) -> OptimumLaw:
    """The law of the best settings of runs with these sizes, settings and losses.

    Raises ValueError, with what to do, if the runs do not show where the optimum is and how it moves.
    """
    _, place_R = np.unique(size_RV, axis=0, return_inverse=True)
    place_R = place_R.reshape(-1)
    lowest_S = np.full(place_R.max() + 1, np.inf)
    np.minimum.at(lowest_S, place_R, loss_R)
    is_near_R = loss_R <= lowest_S[place_R] * (1.0 + near)
    log_size_RV, log_setting_RH, place_R = np.log(size_RV[is_near_R]), np.log(setting_RH[is_near_R]), place_R[is_near_R]
    middle_V, middle_H = log_size_RV.mean(axis=0), log_setting_RH.mean(axis=0)
    column_RF = _columns(log_size_RV - middle_V, log_setting_RH - middle_H, place_R)
    log_loss_R = np.log(loss_R[is_near_R])
    coefficient_F, _, rank, _ = np.linalg.lstsq(column_RF, log_loss_R, rcond=None)
    if rank < column_RF.shape[1] or len(log_loss_R) <= rank:
        raise ValueError(
            f"{len(log_loss_R)} runs near the lowest loss of {len(lowest_S)} sizes do not show how the best settings "
            "move with the size: add settings around the best of each size, or sizes that differ in each variable"
        )
    num_settings = log_setting_RH.shape[1]
    slope_H, moved_HV, curvature_HH = _parts(coefficient_F, num_settings, log_size_RV.shape[1])
    if np.linalg.eigvalsh(curvature_HH).min() <= 0:
        raise ValueError("the loss has no minimum in the settings: add larger and smaller values of each")
    std = float(np.sqrt(((log_loss_R - column_RF @ coefficient_F) ** 2).sum() / (len(log_loss_R) - rank)))
    best_H, exponents_HV = (-np.linalg.solve(curvature_HH, each) for each in (slope_H, moved_HV))
    return OptimumLaw(middle_V, middle_H + best_H, exponents_HV, curvature_HH, std)


def _columns(size_RV: Floats, setting_RH: Floats, place_R: Floats) -> Floats:
    """What the logarithm of the loss is a sum of: slopes, slopes that change with the size, curvatures, sizes."""
    num = setting_RH.shape[1]
    moved = [setting_RH[:, h] * size_RV[:, v] for h in range(num) for v in range(size_RV.shape[1])]
    curved = [setting_RH[:, h] * setting_RH[:, g] * (0.5 if h == g else 1.0) for h in range(num) for g in range(h, num)]
    own = [(place_R == place).astype(float) for place in np.unique(place_R)]
    return np.column_stack([setting_RH, *moved, *curved, *own])


def _parts(coefficient_F: Floats, num: int, num_variables: int) -> tuple[Floats, Floats, Floats]:
    """The slopes (H), how they change with the size (H, V), and the curvature (H, H)."""
    slope_H, rest_F = coefficient_F[:num], coefficient_F[num:]
    moved_HV, rest_F = rest_F[: num * num_variables].reshape(num, num_variables), rest_F[num * num_variables :]
    curvature_HH = np.zeros((num, num))
    pairs = [(h, g) for h in range(num) for g in range(h, num)]
    for (h, g), value in zip(pairs, rest_F, strict=False):
        curvature_HH[h, g] = curvature_HH[g, h] = value
    return slope_H, moved_HV, curvature_HH
