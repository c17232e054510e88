"""The multi-power law: the loss after each step of a run from the schedule of its learning rate. Pure.

arXiv 2503.12811, equations 1 and 2, with eta_k for the rate of step k:

    L(t) = L0 + A * S(t)^-alpha - B * sum over k of (eta_[k-1] - eta_k) * G(eta_k^-gamma * S_k(t))
    G(x) = 1 - (1 + C * x)^-beta

S(t) is the sum of all rates up to step t, with those of the warm-up; S_k(t) is that from step k on. The sum is over the
steps after the warm-up. Without a drop of the rate the loss is a power law of S; each drop lowers it, by and by.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

import numpy as np

from foretrain.scaling.laws.curves.schedule import Floats, Integers, Schedule, Terms


@dataclass(frozen=True)
class CurveLaw:
    """A multi-power law with its parameters. All but gamma are greater than zero (ValueError)."""

    L0: float
    """The loss that no number of steps removes at the highest rate, in nats per token."""
    A: float
    alpha: float
    B: float
    C: float
    beta: float
    gamma: float

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not np.isfinite(value) or (value <= 0 and name != "gamma"):
                raise ValueError(f"{name} is {value:g}: it must be a {'' if name == 'gamma' else 'positive '}number")

    def loss(self, rate_T: Floats | Schedule, step_N: Integers | None = None) -> Floats:
        """The loss (N), in nats per token, at some steps of a schedule; at all after its warm-up if there are none.

        `rate_T`: the rate of each step. `step_N`: integers; 0 is the first step. Schedules with 100,000 different rates
        take milliseconds for 100 steps, since changes are summed in groups (see GROUPING).
        Raises ValueError if a step belongs to the warm-up, or a rate is not a number of at least zero.
        """
        schedule = rate_T if isinstance(rate_T, Schedule) else Schedule(rate_T)
        if step_N is None:
            step_N = np.arange(schedule.num_warmup_steps, len(schedule.rate_T))
        theta_P = np.array(list(asdict(self).values()))
        parts = np.array_split(np.asarray(step_N), max(1, -(-len(step_N) // _STEPS_AT_A_TIME)))
        return np.concatenate([curve(theta_P, schedule.terms(part))[0] for part in parts])

    def to_dict(self) -> dict[str, float]:
        """The parameters by name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, float]) -> "CurveLaw":
        """The law with these parameters. Raises ValueError if there are others, or some are missing."""
        if set(values) != set(PARAMETERS):
            raise ValueError(f"a law of curves has the parameters {', '.join(PARAMETERS)}, not {', '.join(values)}")
        return cls(**{name: float(values[name]) for name in PARAMETERS})


PARAMETERS = tuple(field.name for field in fields(CurveLaw))
"""The names of the parameters, in the order of theta_P."""
_STEPS_AT_A_TIME = 500
"""Bounds the memory of a prediction for all steps of a long schedule."""


def curve(theta_P: Floats, terms: Terms) -> tuple[Floats, Floats]:
    """The loss (N) of the law with parameters theta_P, and its derivatives by them (N, P)."""
    L0, A, alpha, B, *_ = theta_P
    log_sum_N = np.log(terms.sum_N)
    power_N = np.exp(-alpha * log_sum_N)
    drop_N, by_C_N, by_beta_N, by_gamma_N = loss_drop(theta_P[4:], terms)
    derivatives = [
        np.ones_like(power_N),
        power_N,
        -A * log_sum_N * power_N,
        -drop_N,
        -B * by_C_N,
        -B * by_beta_N,
        -B * by_gamma_N,
    ]
    return L0 + A * power_N - B * drop_N, np.stack(derivatives, axis=1)


def loss_drop(shape: Floats, terms: Terms) -> tuple[Floats, Floats, Floats, Floats]:
    """The sum over the changes of the rate, without B, and its derivatives by C, beta and gamma; `shape` is these."""
    C, beta, gamma = shape
    log_x_M = np.log(C) + terms.log_since_M - gamma * terms.log_rate_M
    log_M = np.logaddexp(0.0, log_x_M)
    left_M = terms.drop_M * np.exp(-beta * log_M)
    by_log_C_M = beta * left_M * np.exp(log_x_M - log_M)
    return (
        terms.total(terms.drop_M) - terms.total(left_M),
        terms.total(by_log_C_M) / C,
        terms.total(left_M * log_M),
        -terms.total(by_log_C_M * terms.log_rate_M),
    )
