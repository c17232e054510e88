"""Minima of many problems at once are those that scipy.optimize finds one by one."""

import numpy as np
import pytest
from scipy.optimize import least_squares

from foretrain.scaling.laws.fit import best, table, with_delta
from foretrain.scaling.laws.forms import FORMS, Floats
from foretrain.scaling.laws.intervals import loss_at
from foretrain.scaling.laws.minimize import Problems, Pull, minimize

NAMES = ("chinchilla", "compute", "compute_no_e")


def problems(name: str, num: int, seed: int = 0, noise: float = 0.01) -> tuple[Problems, Floats]:
    """Tables of 14 runs with noise, of which some are left out or count twice, and the parameters of their laws."""
    form, random = FORMS.get(name), np.random.default_rng(seed)
    log_x_RV = random.uniform(-3.0, 3.0, (14, len(form.variables)))
    coefficients = random.uniform(-1.0, 0.5, (num, len(form.terms)))
    exponents = np.log(random.uniform(0.2, 0.6, (num, len(form.exponents))))
    theta_BP = np.concatenate([coefficients, exponents], axis=1)
    log_loss_BR = form.log_loss(theta_BP, log_x_RV[None]) + noise * random.standard_normal((num, 14))
    weight_BR = random.choice([0.0, 1.0, 1.0, 1.0, 2.0], (num, 14))
    return table(form, log_x_RV, log_loss_BR, weight_BR), theta_BP


def by_scipy(problem: Problems, place: int, start_P: Floats) -> float:
    """The least objective of one problem near a start, found by scipy.optimize."""
    count_R, delta = problem.weight_BR[place].astype(int), float(problem.delta_B[place])

    def residual(theta_P: Floats) -> Floats:
        return problem.form.log_loss(theta_P, problem.log_x_BRV[0]) - problem.log_loss_BR[place]

    loss, scale = ("linear", 1.0) if np.isinf(delta) else ("huber", delta)
    found = least_squares(
        lambda theta_P: np.repeat(residual(theta_P), count_R),
        start_P,
        loss=loss,
        f_scale=scale,
        xtol=1e-12,
        ftol=1e-12,
        gtol=1e-12,
    )
    return float(found.cost)


@pytest.mark.parametrize("delta", [np.inf, 0.01])
@pytest.mark.parametrize("name", NAMES)
def test_minima_are_those_of_scipy(name: str, delta: float) -> None:
    tables, theta_BP = problems(name, 6)
    tables = with_delta(tables, delta)
    found = minimize(tables, theta_BP)
    for place in range(6):
        assert found.objective_B[place] == pytest.approx(by_scipy(tables, place, theta_BP[place]), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_no_start_of_a_hundred_leads_to_a_lower_minimum_than_the_best(name: str) -> None:
    tables, _ = problems(name, 3, seed=1)
    found = best(tables)
    random = np.random.default_rng(2)
    num_terms, num_exponents = len(tables.form.terms), len(tables.form.exponents)
    starts = np.concatenate(
        [random.uniform(-3.0, 1.0, (300, num_terms)), np.log(random.uniform(0.02, 1.5, (300, num_exponents)))], axis=1
    )
    others = minimize(tables.repeated(100), starts).objective_B.reshape(3, 100)
    assert (found.objective_B <= others.min(axis=1) * (1 + 1e-6)).all()


def test_a_strong_pull_gives_the_quantity_its_target_and_a_weak_one_changes_nothing() -> None:
    tables, theta_BP = problems("chinchilla", 4)
    quantity = loss_at(tables.form, np.array([[6.0, 6.0]]))
    free = minimize(tables, theta_BP)
    target_B = quantity(free.theta_BP)[0] + 0.05
    strong = minimize(tables, free.theta_BP, Pull(quantity, np.full(4, 1e8), target_B))
    assert quantity(strong.theta_BP)[0] == pytest.approx(target_B, abs=1e-5)
    assert (strong.objective_B > free.objective_B).all()
    weak = minimize(tables, free.theta_BP, Pull(quantity, np.full(4, 1e-12), target_B))
    assert weak.objective_B == pytest.approx(free.objective_B, rel=1e-6)


def test_a_run_with_the_weight_zero_is_not_used() -> None:
    tables, theta_BP = problems("compute", 1, noise=0.02)
    weight_BR = np.ones_like(tables.weight_BR)
    weight_BR[0, 3] = 0.0
    without = table(tables.form, np.delete(tables.log_x_BRV[0], 3, axis=0), np.delete(tables.log_loss_BR, 3, axis=1))
    with_zero = table(tables.form, tables.log_x_BRV[0], tables.log_loss_BR, weight_BR)
    assert minimize(with_zero, theta_BP).theta_BP == pytest.approx(minimize(without, theta_BP).theta_BP, rel=1e-6)
