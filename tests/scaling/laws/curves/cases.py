"""Schedules of all shapes, and the multi-power law as a plain sum, as its paper states it."""

import numpy as np

LAW = {"L0": 3.04, "A": 0.52, "alpha": 0.51, "B": 364.0, "C": 2.07, "beta": 0.58, "gamma": 0.64}
"""About what the authors of arXiv 2503.12811 found for 25M parameters."""
PEAK = 3e-4


def schedules(num_steps: int, num_warmup_steps: int) -> dict[str, np.ndarray]:
    """Schedules with a linear warm-up from zero, by name."""
    part = np.arange(num_steps - num_warmup_steps) / (num_steps - num_warmup_steps - 1)
    noise = np.random.default_rng(0).standard_normal(len(part))
    shapes = {
        "constant": np.ones_like(part),
        "cosine to zero": (1 + np.cos(np.pi * part)) / 2,
        "linear to zero": 1 - part,
        "exponential": 1e-3**part,
        "stable, then linear to zero": np.minimum(1, (1 - part) / 0.2),
        "one step down": np.where(part < 0.5, 1.0, 0.3),
        "many steps down": 0.5 ** np.floor(8 * part),
        "cycles": 0.55 + 0.45 * np.cos(10 * np.pi * part),
        "noisy": (1 - 0.9 * part) * np.exp(0.1 * noise) / np.exp(0.1 * noise).max(),
        "zero for some time": np.where((part > 0.4) & (part < 0.45), 0.0, 1 - part),
    }
    warmup = np.linspace(0.0, PEAK, num_warmup_steps)
    return {name: np.concatenate([warmup, PEAK * shape]) for name, shape in shapes.items()}


def plain_sum(law: dict[str, float], rate_T: np.ndarray, step: int, first: int) -> float:
    """The loss at a step from all changes of the rate after step `first`, the last one of the warm-up."""
    total = law["L0"] + law["A"] * rate_T[: step + 1].sum() ** -law["alpha"]
    for k in range(first + 1, step + 1):
        since = rate_T[k : step + 1].sum()
        if rate_T[k] != rate_T[k - 1] and since > 0:
            with np.errstate(divide="ignore"):
                x = rate_T[k] ** -law["gamma"] * since
            total -= law["B"] * (rate_T[k - 1] - rate_T[k]) * (1 - (1 + law["C"] * x) ** -law["beta"])
    return total
