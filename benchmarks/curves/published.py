"""The published curves of the multi-power law: runs of Llama models that differ in their schedules only.

published_curves.csv has the training losses (nats per token) of nine runs for models of 25M, 100M and 400M parameters,
most of them every 128 steps, as the authors of arXiv 2503.12811 publish them in github.com/thu-yao-01-luo/MultiPowerLaw
(folder loss_curve_repo, MIT license, in published_curves.LICENSE). The schedules are those of that repository: a linear
warm-up of 2,160 steps to 3e-4, then one of the shapes below. The learning rates that are published with the losses are
the same, within rounding.
"""

import csv
from pathlib import Path

import numpy as np

from foretrain.scaling.laws.curves.fit import Curve

FILE = Path(__file__).with_name("published_curves.csv")
SIZES = ("25M", "100M", "400M")
WARMUP, PEAK, LAST = 2_160, 3e-4, 3e-5
"""Steps of the warm-up, the highest rate, and the rate at the end of a decay."""
DECAY_FROM, STEP_DOWN = 20_000, 8_000
"""The step from which warm-up-stable-decay runs decay, and that at which step-down runs lower their rate at once."""
SCHEDULES = {
    "constant_24000": np.full(24_000 - WARMUP, PEAK),
    "constant_72000": np.full(72_000 - WARMUP, PEAK),
    **{
        f"cosine_{steps}": LAST + (PEAK - LAST) * (1 + np.cos(np.pi * np.arange(steps - WARMUP) / (steps - WARMUP))) / 2
        for steps in (24_000, 72_000)
    },
    **{
        f"wsdcon_{rate}": np.repeat([PEAK, rate * 1e-5], [STEP_DOWN - WARMUP, 16_000 - STEP_DOWN])
        for rate in (3, 9, 18)
    },
    "wsd_20000_24000": np.append(
        np.full(DECAY_FROM - WARMUP, PEAK), PEAK * (LAST / PEAK) ** (np.arange(4_000) / 4_000)
    ),
    "wsdld_20000_24000": np.append(
        np.full(DECAY_FROM - WARMUP, PEAK), PEAK + (LAST - PEAK) * (np.arange(4_000) / 4_000)
    ),
}
"""The rates of each run after its warm-up."""
STABLE_DECAY = ("wsd_20000_24000", "wsdld_20000_24000")
"""The runs that are predicted. Their first 20,000 steps have a constant rate, like the fitted runs."""
FITTED = {
    "constant, cosine, one step-down": ("constant_24000", "cosine_24000", "wsdcon_9"),
    "all but the predicted ones": tuple(name for name in SCHEDULES if name not in STABLE_DECAY),
    "constant, cosine": ("constant_24000", "cosine_24000"),
}
"""The runs that laws are fitted to. The first are those of the authors' own fit."""


def published_curves(size: str) -> dict[str, Curve]:
    """The curves of all runs of a size (one of SIZES), by the name of the run."""
    with FILE.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["parameters"] == size]
    warmup = np.linspace(0.0, PEAK, WARMUP)
    curves = {}
    for name, rate in SCHEDULES.items():
        of_run = [row for row in rows if row["run"] == name]
        steps = np.array([int(row["step"]) for row in of_run])
        losses = np.array([float(row["loss"]) for row in of_run])
        curves[name] = Curve(np.concatenate([warmup, rate]), steps, losses, f"{name} ({size})")
    return curves
