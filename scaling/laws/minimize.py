"""The least sum of Huber losses of a law, for many tables at once. Pure.

Intervals, bootstraps and back-tests fit a law thousands of times, to tables of a few dozen runs. One at a time with
scipy.optimize, this takes hours; here one step of all problems is a few operations of NumPy. The method is that of
Levenberg and Marquardt, with the weights of iteratively reweighted least squares for the Huber loss. The tests compare
its minima with those of scipy.optimize.

Shapes: B problems, R runs, V variables, P parameters.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from foretrain.scaling.laws.forms import Floats, Form

MAX_STEPS = 300
GAIN = 1e-9
"""A step that lowers the objective by a smaller share is a sign that the minimum is reached; NUM_SMALL of them end."""
NUM_SMALL = 3
_LONGEST = 2.0
"""The longest step, in a logarithm of a parameter."""
_STUCK = 1e8
"""A damping at which no step lowers the objective any more."""

Quantity = Callable[[Floats], tuple[Floats, Floats]]
"""Gives a number for each of the parameters (B, P), and its derivatives by them: (B), (B, P)."""


@dataclass(frozen=True)
class Pull:
    """A term weight / 2 * (quantity - target)^2 that is added to the objective of each problem."""

    quantity: Quantity
    weight_B: Floats
    target_B: Floats


@dataclass(frozen=True)
class Problems:
    """Tables to each of which a form is fitted. The first axis of `log_x_BRV` may be 1, if all have the same runs."""

    form: Form
    log_x_BRV: Floats
    log_loss_BR: Floats
    weight_BR: Floats
    """How often each run counts; 0 leaves it out."""
    delta_B: Floats
    """Where the Huber loss changes from a square to a line; infinity: least squares."""

    def repeated(self, num: int) -> "Problems":
        """Each problem `num` times, one after the other."""
        log_x_BRV = self.log_x_BRV if len(self.log_x_BRV) == 1 else np.repeat(self.log_x_BRV, num, axis=0)
        arrays = (np.repeat(array, num, axis=0) for array in (self.log_loss_BR, self.weight_BR, self.delta_B))
        return Problems(self.form, log_x_BRV, *arrays)

    def only(self, place: int) -> "Problems":
        """One of the problems. All must have the same sizes of runs."""
        arrays = (array[place : place + 1] for array in (self.log_loss_BR, self.weight_BR, self.delta_B))
        return Problems(self.form, self.log_x_BRV, *arrays)

    def residual(self, theta_BP: Floats) -> Floats:
        """The logarithm of the law's loss minus that of each run (B, R)."""
        return self.form.log_loss(theta_BP, self.log_x_BRV) - self.log_loss_BR

    def objective(self, residual_BR: Floats) -> Floats:
        """The sum of the Huber losses (B)."""
        size_BR, delta_B1 = np.abs(residual_BR), self.delta_B[:, None]
        with np.errstate(invalid="ignore"):  # infinity - infinity, which is not chosen
            line_BR = delta_B1 * (size_BR - 0.5 * delta_B1)
        return np.asarray((self.weight_BR * np.where(size_BR <= delta_B1, 0.5 * size_BR**2, line_BR)).sum(1))


@dataclass
class _Point:
    """The parameters of all problems, and what follows from them. K: pulls."""

    theta_BP: Floats
    residual_BR: Floats
    slope_BRP: Floats
    objective_B: Floats
    """Without pulls."""
    total_B: Floats
    distance_BK: Floats
    """The quantity of each pull minus its target."""
    direction_BKP: Floats
    """The derivatives of the quantities."""

    @classmethod
    def at(cls, problems: Problems, theta_BP: Floats, pulls: Sequence[Pull]) -> "_Point":
        log_loss_BR, slope_BRP = problems.form.gradient(theta_BP, problems.log_x_BRV)
        residual_BR = log_loss_BR - problems.log_loss_BR
        objective_B = problems.objective(residual_BR)
        distance_BK = np.zeros((len(theta_BP), len(pulls)))
        direction_BKP = np.zeros((*distance_BK.shape, theta_BP.shape[1]))
        total_B = objective_B.copy()
        for place, pull in enumerate(pulls):
            quantity_B, direction_BKP[:, place] = pull.quantity(theta_BP)
            distance_BK[:, place] = quantity_B - pull.target_B
            total_B += 0.5 * pull.weight_B * distance_BK[:, place] ** 2
        return cls(theta_BP, residual_BR, slope_BRP, objective_B, total_B, distance_BK, direction_BKP)

    def replace(self, other: "_Point", where_B: Floats) -> None:
        """Take over the problems of another point at which `where_B` is true."""
        for name, array in vars(other).items():
            getattr(self, name)[where_B] = array[where_B]


@dataclass(frozen=True)
class Minima:
    """The parameters at a minimum of each problem."""

    theta_BP: Floats
    objective_B: Floats
    """The sum of the Huber losses, without pulls."""
    total_B: Floats
    """With pulls."""


def minimize(problems: Problems, theta_BP: Floats, *pulls: Pull, max_steps: int = MAX_STEPS) -> Minima:
    """The nearest minimum of each problem from the parameters `theta_BP`."""
    point = _Point.at(problems, theta_BP.copy(), pulls)
    damping_B, num_small_B = np.full(len(theta_BP), 1e-3), np.zeros(len(theta_BP), dtype=int)
    for _ in range(max_steps):
        other = _Point.at(problems, point.theta_BP + _step(problems, point, pulls, damping_B), pulls)
        is_lower_B = other.total_B <= point.total_B
        is_small_B = point.total_B - other.total_B <= GAIN * point.total_B
        num_small_B = np.where(is_lower_B, np.where(is_small_B, num_small_B + 1, 0), num_small_B)
        point.replace(other, is_lower_B)
        is_stuck_B = ~is_lower_B & (damping_B > _STUCK)
        damping_B = np.where(is_lower_B, np.maximum(0.2 * damping_B, 1e-12), 10.0 * damping_B)
        if ((num_small_B >= NUM_SMALL) | is_stuck_B).all():
            break
    return Minima(point.theta_BP, point.objective_B, point.total_B)


def _step(problems: Problems, point: _Point, pulls: Sequence[Pull], damping_B: Floats) -> Floats:
    """The step of Levenberg and Marquardt (B, P)."""
    size_BR = np.maximum(np.abs(point.residual_BR), 1e-300)
    weight_BR = problems.weight_BR * np.minimum(1.0, problems.delta_B[:, None] / size_BR)
    weighted_BRP = point.slope_BRP * weight_BR[..., None]
    curvature_BPP = np.einsum("brp,brq->bpq", weighted_BRP, point.slope_BRP)
    gradient_BP = np.einsum("brp,br->bp", weighted_BRP, point.residual_BR)
    for place, pull in enumerate(pulls):
        direction_BP = point.direction_BKP[:, place]
        pulled_BP = pull.weight_B[:, None] * direction_BP
        curvature_BPP += pulled_BP[..., None] * direction_BP[:, None]
        gradient_BP += pulled_BP * point.distance_BK[:, place, None]
    diagonal_BP = np.einsum("bpp->bp", curvature_BPP)
    # Parameters on which no run depends, such as the exponent of a term that is zero, must not make it singular.
    scale_BP = diagonal_BP + 1e-9 * diagonal_BP.max(1, keepdims=True) + 1e-300
    damped_BPP = curvature_BPP + (damping_B[:, None] * scale_BP)[..., None] * np.eye(diagonal_BP.shape[1])
    step_BP = -np.linalg.solve(damped_BPP, gradient_BP[..., None])[..., 0]
    longest_B1 = np.maximum(np.abs(step_BP).max(1, keepdims=True), 1e-300)
    return np.asarray(step_BP * np.minimum(1.0, _LONGEST / longest_B1))
