"""Forms of laws: their loss is the sum of their terms, and their derivatives are right."""

import numpy as np
import pytest
from scipy.optimize import check_grad

from foretrain.scaling.laws.forms import FORMS, Form, Term

NAMES = ("chinchilla", "compute", "compute_no_e")


def random_case(form: Form, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Parameters, and the logarithms of the variables of 7 runs."""
    random = np.random.default_rng(seed)
    exponents = np.log(random.uniform(0.05, 1.0, len(form.exponents)))
    theta_P = np.concatenate([random.normal(0.0, 1.0, len(form.terms)), exponents])
    return theta_P, random.normal(0.0, 2.0, (7, len(form.variables)))


def test_the_loss_is_the_sum_of_the_terms() -> None:
    form = FORMS.get("chinchilla")
    assert form.variables == ("N", "D")
    assert form.parameters == ("E", "A", "B", "alpha", "beta")
    assert (form.constant, FORMS.get("compute_no_e").constant) == ("E", None)
    theta_P = np.array([np.log(1.8), np.log(480.0), np.log(2100.0), np.log(0.35), np.log(0.37)])
    x_NV = np.array([[1e8, 2e9], [7e10, 1.4e12]])
    expected = 1.8 + 480.0 / x_NV[:, 0] ** 0.35 + 2100.0 / x_NV[:, 1] ** 0.37
    assert np.exp(form.log_loss(theta_P, np.log(x_NV))) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", NAMES)
def test_the_derivatives_are_those_of_finite_differences(name: str, seed: int) -> None:
    form = FORMS.get(name)
    theta_P, log_x_NV = random_case(form, seed)
    for run in range(len(log_x_NV)):
        of_run = log_x_NV[run : run + 1]
        error = check_grad(
            lambda theta: form.log_loss(theta, of_run)[0],  # noqa: B023
            lambda theta: form.gradient(theta, of_run)[1][0],  # noqa: B023
            theta_P,
        )
        assert error < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_many_problems_at_once_give_what_each_gives_alone(name: str) -> None:
    form = FORMS.get(name)
    cases = [random_case(form, seed) for seed in range(4)]
    theta_BP, log_x_BRV = (np.stack(arrays) for arrays in zip(*cases, strict=True))
    together = form.gradient(theta_BP, log_x_BRV)
    for number, (theta_P, log_x_RV) in enumerate(cases):
        alone = form.gradient(theta_P, log_x_RV)
        assert together[0][number] == pytest.approx(alone[0], rel=1e-12)
        assert together[1][number] == pytest.approx(alone[1], rel=1e-12)


def test_a_form_may_share_an_exponent_between_terms() -> None:
    form = Form("shared", "a / N^p + b / D^p", (Term("a", (("p", "N"),)), Term("b", (("p", "D"),))))
    assert form.parameters == ("a", "b", "p")
    theta_P, log_x_NV = random_case(form, 0)
    error = check_grad(
        lambda theta: form.log_loss(theta, log_x_NV[:1])[0],
        lambda theta: form.gradient(theta, log_x_NV[:1])[1][0],
        theta_P,
    )
    assert error < 1e-6
