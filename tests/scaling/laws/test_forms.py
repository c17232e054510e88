"""Forms of laws: their loss is the sum of their terms, and their derivatives are right."""

import numpy as np
import pytest
from scipy.optimize import check_grad

from foretrain.scaling.laws.fit import objective
from foretrain.scaling.laws.forms import FORMS, Form, Term

NAMES = ("chinchilla", "compute", "compute_no_e")


def random_case(form: Form, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parameters, logarithms of the variables of 7 runs, and of their losses."""
    random = np.random.default_rng(seed)
    exponents = random.uniform(0.05, 1.0, len(form.exponents))
    theta_P = np.concatenate([random.normal(0.0, 1.0, len(form.terms)), exponents])
    log_x_NV = random.normal(0.0, 2.0, (7, len(form.variables)))
    return theta_P, log_x_NV, form.log_loss(theta_P, log_x_NV) + random.normal(0.0, 0.01, 7)


def test_the_loss_is_the_sum_of_the_terms() -> None:
    form = FORMS.get("chinchilla")
    assert form.variables == ("N", "D")
    assert form.parameters == ("E", "A", "B", "alpha", "beta")
    assert (form.constant, FORMS.get("compute_no_e").constant) == ("E", None)
    theta_P = np.array([np.log(1.8), np.log(480.0), np.log(2100.0), 0.35, 0.37])
    x_NV = np.array([[1e8, 2e9], [7e10, 1.4e12]])
    expected = 1.8 + 480.0 / x_NV[:, 0] ** 0.35 + 2100.0 / x_NV[:, 1] ** 0.37
    assert np.exp(form.log_loss(theta_P, np.log(x_NV))) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", NAMES)
def test_the_derivatives_are_those_of_finite_differences(name: str, seed: int) -> None:
    form = FORMS.get(name)
    theta_P, log_x_NV, log_loss_N = random_case(form, seed)
    log_loss, _ = form.gradient(theta_P, log_x_NV)
    assert log_loss == pytest.approx(form.log_loss(theta_P, log_x_NV), rel=1e-12)
    for run in range(len(log_x_NV)):
        of_run = log_x_NV[run : run + 1]
        error = check_grad(
            lambda theta: form.log_loss(theta, of_run)[0],  # noqa: B023
            lambda theta: form.gradient(theta, of_run)[1][0],  # noqa: B023
            theta_P,
        )
        assert error < 1e-6
    error = check_grad(
        lambda theta: objective(form, theta, log_x_NV, log_loss_N, 0.005)[0],
        lambda theta: objective(form, theta, log_x_NV, log_loss_N, 0.005)[1],
        theta_P,
    )
    assert error < 1e-6


def test_a_form_may_share_an_exponent_between_terms() -> None:
    form = Form("shared", "a / N^p + b / D^p", (Term("a", (("p", "N"),)), Term("b", (("p", "D"),))))
    assert form.parameters == ("a", "b", "p")
    theta_P, log_x_NV, _ = random_case(form, 0)
    error = check_grad(
        lambda theta: form.log_loss(theta, log_x_NV[:1])[0],
        lambda theta: form.gradient(theta, log_x_NV[:1])[1][0],
        theta_P,
    )
    assert error < 1e-6
