"""The multi-power law: its derivatives, what it says about schedules, and its form for files."""

import json

import numpy as np
import pytest

from foretrain.scaling.laws.curves.law import PARAMETERS, CurveLaw, curve
from foretrain.scaling.laws.curves.schedule import Schedule
from tests.scaling.laws.curves.cases import LAW, PEAK, schedules


@pytest.mark.parametrize("name", schedules(300, 20))
@pytest.mark.parametrize("place", range(len(PARAMETERS)), ids=PARAMETERS)
def test_the_derivatives_are_those_of_finite_differences(name: str, place: int) -> None:
    terms = Schedule(schedules(300, 20)[name]).terms(np.array([25, 150, 160, 299]))
    theta_P = np.array(list(LAW.values()))
    step = np.zeros(len(theta_P))
    step[place] = 1e-5 * theta_P[place]
    expected = (curve(theta_P + step, terms)[0] - curve(theta_P - step, terms)[0]) / (2 * step[place])
    assert curve(theta_P, terms)[1][:, place] == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_a_constant_rate_gives_a_power_law_and_a_lower_rate_lowers_the_loss_by_and_by() -> None:
    law = CurveLaw(**LAW)
    lower = np.where(np.arange(400) < 200, PEAK, 0.1 * PEAK)
    for rate in (np.full(400, PEAK), lower):
        drop = LAW["L0"] + LAW["A"] * np.cumsum(rate) ** -LAW["alpha"] - law.loss(rate)
        assert drop[:200] == pytest.approx(0.0, abs=1e-12)
    assert 0 < drop[200] < drop[220] < drop[250] < drop[399] < LAW["B"] * 0.9 * PEAK


def test_a_law_is_the_same_after_a_way_through_json() -> None:
    law = CurveLaw(**LAW)
    assert CurveLaw.from_dict(json.loads(json.dumps(law.to_dict()))) == law
    with pytest.raises(ValueError, match="has the parameters L0, A, alpha, B, C, beta, gamma, not L0"):
        CurveLaw.from_dict({"L0": 1.0})
    with pytest.raises(ValueError, match="beta is -1: it must be a positive number"):
        CurveLaw.from_dict(LAW | {"beta": -1.0})
    with pytest.raises(ValueError, match="gamma is nan: it must be a number"):
        CurveLaw.from_dict(LAW | {"gamma": float("nan")})
