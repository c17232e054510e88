"""The momentum law of arXiv 2408.11029, fitted in the same way: what the multi-power law is compared with.

L(t) = L0 + A * S(t)^-alpha - C * S2(t). S2 is the sum up to step t of m_i = decay * m_(i-1) + eta_(i-1) - eta_i, which
are the drops of the rate with momentum. The decay is the best of several.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls
from scipy.signal import lfilter

from foretrain.scaling.laws.curves.fit import Curve
from foretrain.scaling.laws.curves.schedule import Floats, Integers, Schedule
from foretrain.scaling.laws.huber import DELTA, refined

DECAYS = (0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9998)
ALPHAS = (0.2, 0.4, 0.6, 0.9)
"""Where fits start."""


@dataclass(frozen=True)
class MomentumLaw:
    """A momentum law with its parameters."""

    L0: float
    A: float
    alpha: float
    C: float
    decay: float

    def loss(self, schedule: Schedule, step_N: Integers) -> Floats:
        """The loss (N), in nats per token, at some steps of a schedule."""
        total_N, annealing_N = areas(schedule, step_N, self.decay)
        return np.asarray(self.L0 + self.A * total_N**-self.alpha - self.C * annealing_N)


def areas(schedule: Schedule, step_N: Integers, decay: float) -> tuple[Floats, Floats]:
    """The sums of the rates, and of their drops with momentum, up to each step (N)."""
    drop_T = -np.diff(schedule.rate_T, prepend=schedule.rate_T[0])
    drop_T[: schedule.num_warmup_steps + 1] = 0.0
    return schedule.sums[step_N], np.cumsum(lfilter([1.0], [1.0, -decay], drop_T))[step_N]


def fit_momentum(curves: Sequence[Curve]) -> MomentumLaw:
    """The law with the least summed Huber loss of the logarithms; every run counts the same."""
    loss_N = np.concatenate([each.loss_N for each in curves])
    weight_N = np.concatenate(
        [np.full(len(each.loss_N), len(loss_N) / len(curves) / len(each.loss_N)) for each in curves]
    )
    found = []
    for decay in DECAYS:
        both = [areas(each.schedule, each.step_N, decay) for each in curves]
        total_N, annealing_N = (np.concatenate(columns) for columns in zip(*both, strict=True))

        def differences(
            theta_P: Floats, total_N: Floats = total_N, annealing_N: Floats = annealing_N
        ) -> tuple[Floats, Floats]:
            L0, A, C = np.exp(theta_P[:3])
            power_N = A * total_N ** -theta_P[3]
            predicted = np.maximum(L0 + power_N - C * annealing_N, 1e-3)
            parts = np.stack([np.full_like(power_N, L0), power_N, -C * annealing_N, -power_N * np.log(total_N)], axis=1)
            return np.log(predicted / loss_N), parts / predicted[:, None]

        for alpha in ALPHAS:
            columns = np.stack([np.ones_like(total_N), total_N**-alpha, -annealing_N], axis=1) / loss_N[:, None]
            coefficients, _ = nnls(columns, np.ones_like(loss_N))
            start = np.append(np.log(np.maximum(coefficients, 1e-2)), alpha)
            theta_P, objective = refined(differences, start, DELTA, weight_N)
            found.append((objective, decay, theta_P))
    _, decay, theta_P = min(found, key=lambda each: each[0])
    L0, A, C = np.exp(theta_P[:3]).tolist()
    return MomentumLaw(L0, A, float(theta_P[3]), C, decay)
