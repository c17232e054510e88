"""The limits of the tests of a loss curve: those that a chosen share of sound runs exceeds. By simulation. Pure."""

from dataclasses import replace

import numpy as np

from foretrain.scaling.laws.forms import Floats
from foretrain.scaling.prediction.shape import student
from foretrain.trainer.prediction.course import Noise, averages

FALSE_ALARM = 0.01
"""Share of sound runs whose curve exceeds a limit in any window."""
NUM_SIMULATED = 20_000
BAND = 0.9
"""A standard deviation that few runs show is enlarged so that a normal distribution has this interval right."""


def enlarged(noise: Noise, freedom: float) -> Noise:
    """The noise whose constant part is enlarged, since few runs show how large it is.

    What changes from window to window is shown by all windows of all runs, and stays.
    """
    factor = (student(freedom, BAND) / student(np.inf, BAND)) ** 2
    total = noise.constant * factor + 1.0 - noise.constant
    return replace(
        noise,
        std=(np.array(noise.std) * np.sqrt(total)).tolist(),
        constant=noise.constant * factor / total,
        slow=noise.slow / total,
    )


def simulated(noise: Noise, freedom: float, level_freedom: float, count: int, seed: int) -> Floats:
    """How far sound runs are from the expected curve (count, K), whose noise is known as `enlarged` says.

    `noise` is not enlarged yet; its level is. `freedom` and `level_freedom`: of the constant part and of the level.
    """
    random = np.random.default_rng(seed)
    std_K = np.array(noise.std)
    lag_KK = np.abs(np.arange(len(std_K))[:, None] - np.arange(len(std_K)))
    level_B1 = noise.level / student(level_freedom, BAND) * student(np.inf, BAND) * _scale(random, level_freedom, count)
    constant_B1 = np.sqrt(noise.constant) * _scale(random, freedom, count)
    # As many windows are independent of each other.
    independent = max(1.0, len(std_K) * (1.0 - noise.decay) / (1.0 + noise.decay))
    root_KK = np.linalg.cholesky(noise.decay**lag_KK)
    slow_std_B1 = np.sqrt(noise.slow) * _spread(random, freedom * independent, count)
    slow_BK = slow_std_B1 * (_normal(random, count, std_K) @ root_KK.T)
    own_BK = np.sqrt(max(1.0 - noise.constant - noise.slow, 1e-3)) * _normal(random, count, std_K)
    return np.asarray(level_B1 + std_K * (constant_B1 + slow_BK + own_BK))


def limits(noise: Noise, freedom: float, level_freedom: float, share: float = FALSE_ALARM) -> dict[str, float]:
    """The limits of the two averages that together a share of sound runs exceeds."""
    off_BK = simulated(noise, freedom, level_freedom, NUM_SIMULATED, seed=0)
    found = averages(enlarged(noise, freedom).covariance(), off_BK)
    return {
        name: float(np.quantile(np.abs(value_BK).max(1), 1.0 - share / 2))
        for name, value_BK in (("level", found.level_BK), ("change", found.change_BK))
    }


def _normal(random: np.random.Generator, count: int, std_K: Floats) -> Floats:
    return random.standard_normal((count, len(std_K)))


def _spread(random: np.random.Generator, freedom: float, count: int) -> Floats:
    """Draws of a true standard deviation over the one that was estimated (count, 1)."""
    if not np.isfinite(freedom):
        return np.ones((count, 1))
    return np.asarray(np.sqrt(freedom / random.chisquare(freedom, (count, 1))))


def _scale(random: np.random.Generator, freedom: float, count: int) -> Floats:
    """Draws of Student's distribution (count, 1): a normal one whose standard deviation few runs show."""
    return random.standard_normal((count, 1)) * _spread(random, freedom, count)
