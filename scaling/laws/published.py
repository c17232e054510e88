"""Published laws of parameters and tokens, and the runs behind them. Reads one file of this package.

Both are of the form `chinchilla` and of the same runs: L(N, D) = E + A / N^alpha + B / D^beta, N counts all parameters,
and the loss is in nats per token of MassiveText with its tokenizer of 32,000 tokens.
"""

import csv
from functools import cache
from pathlib import Path

import numpy as np

from foretrain.scaling.laws.backtest import BackTest
from foretrain.scaling.laws.evidence import Evidence
from foretrain.scaling.laws.fit import fit, noise, run_weights
from foretrain.scaling.laws.forms import FORMS, Floats
from foretrain.scaling.laws.huber import DELTA
from foretrain.scaling.laws.noise import Replicates

HOFFMANN = {"E": 1.6934, "A": 406.4, "B": 410.7, "alpha": 0.3392, "beta": 0.2849}
"""Approach 3 of arXiv 2203.15556 (equation 10), with the digits of its TeX source, which arXiv 2404.10102 quotes. The
rounded exponents of the printed equation give another optimum."""
REFIT = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}
"""The corrected fit of arXiv 2404.10102."""
REFIT_ERRORS = {"E": 0.03, "A": 124.58, "B": 1293.23, "alpha": 0.02, "beta": 0.02}
"""The standard errors of REFIT in arXiv 2404.10102. The errors of A and alpha, and those of B and beta, depend on one
another, so nothing else follows from them: intervals come from `refit`."""
NUM_LEFT_OUT = 5
"""Runs with the highest losses, which arXiv 2404.10102 leaves out."""
POINTS = Path(__file__).with_name("chinchilla_points.csv")
"""245 runs of Figure 4 of arXiv 2203.15556, as the authors of arXiv 2404.10102 have read them off."""


def chinchilla_points() -> tuple[Floats, Floats]:
    """Parameters and tokens (= FLOPs / 6 N) of each run (R, 2), and its loss (R); the lowest losses first."""
    rows = list(csv.DictReader(POINTS.read_text(encoding="utf-8").splitlines()))
    sizes, flops, losses = (np.array([float(row[key]) for row in rows]) for key in ("parameters", "flops", "loss"))
    order = np.argsort(losses)
    return np.stack([sizes, flops / (6 * sizes)], axis=1)[order], losses[order]


@cache
def refit() -> Evidence:
    """The law of the runs of arXiv 2404.10102, fitted as its authors did, with intervals by profile likelihood.

    The noise of one run is its robust distance from the law. There is no back-test, in which errors of reading the
    figure would count as errors of the law.
    """
    x_RV, loss_R = (array[:-NUM_LEFT_OUT] for array in chinchilla_points())
    found = fit(FORMS.get("chinchilla"), x_RV, loss_R, DELTA)
    run_std = float(noise(found.problem, found.theta_P[None])[0])
    around_law = Replicates(run_std, len(loss_R) - len(found.form.parameters))
    return Evidence(found, around_law, None, x_RV, loss_R, 6.0 * x_RV.prod(axis=1), run_weights(found), BackTest(()))
