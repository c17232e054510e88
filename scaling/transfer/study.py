"""The best learning rate of each proxy of a sweep, and how it drifts with width and depth. Pure."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from foretrain.configs.schema import Config
from foretrain.scaling.transfer.optimum import NoOptimumError, Optimum, find_optimum, mean_losses
from foretrain.scaling.transfer.sweep_folder import RATE, Size, Sweep, TrialResult
from foretrain.trainer.model.resize import resized
from foretrain.trainer.model.table import num_params

Axis = Literal["d_model", "num_layers"]
CARRIED = re.compile(r"optimizer\.(?!kind$)\w+|model\.(embed_|head_)?init_std")
"""Settings that a parametrization transfers to other sizes; it does not transfer batches, budgets and shapes."""


@dataclass(frozen=True, eq=False)
class Fit:
    """What is known about the learning rate of one proxy."""

    size: Size
    num_params: int
    log2_lrs: tuple[float, ...]
    """The rates that were swept, ascending."""
    losses_RS: np.ndarray
    """Losses by rate and seed: infinite if the trial diverged, NaN if there is no result."""
    optimum: Optimum | None
    problem: str
    """Why there is no optimum, and what to sweep."""
    best_others: Mapping[str, Any]
    """Values of the other axes at the best point of the grid for this proxy."""

    @property
    def means(self) -> np.ndarray:
        """The mean loss of each rate over the seeds."""
        return mean_losses(self.losses_RS) if self.log2_lrs else np.empty(0)

    @property
    def best_log2_lr(self) -> float:
        """The optimum, or else the best rate of the grid; NaN if no trial finished."""
        if self.optimum is not None:
            return self.optimum.log2_lr
        means = np.nan_to_num(self.means, nan=np.inf)
        return self.log2_lrs[int(np.argmin(means))] if np.isfinite(means).any() else float("nan")

    def loss_at(self, log2_lr: float) -> float:
        """The loss at a rate: on the parabola within its fit, else interpolated between rates; NaN beyond them."""
        if self.optimum is not None and self.optimum.low <= log2_lr <= self.optimum.high:
            return self.optimum.loss_at(log2_lr)
        known = ~np.isnan(self.means)
        x, y = np.asarray(self.log2_lrs)[known], self.means[known]
        if not len(x) or not x[0] <= log2_lr <= x[-1]:
            return float("nan")
        right = max(1, int(np.searchsorted(x, log2_lr)))
        return float(np.interp(log2_lr, x, y)) if np.isfinite(y[right - 1 : right + 1]).all() else float("inf")


@dataclass(frozen=True)
class Drift:
    """How the best learning rate changes along one size, with the other one fixed."""

    along: Axis
    at: str
    """The fixed size, in words."""
    fits: tuple[Fit, ...]
    """The proxies with an optimum, small to large; at least two."""

    def __str__(self) -> str:
        first, last = (getattr(fit.size, self.along) for fit in (self.fits[0], self.fits[-1]))
        return f"{self.along} {first} to {last} at {self.at}"

    @property
    def slope(self) -> float:
        """Octaves of the best rate for each doubling of the size, by least squares."""
        return float(self._weights @ self._optima)

    @property
    def uncertainty(self) -> float:
        """The uncertainty of the slope, from those of the optima."""
        each = [fit.optimum.uncertainty for fit in self.fits if fit.optimum is not None]
        return float(np.linalg.norm(self._weights * each))

    @property
    def range(self) -> float:
        """Octaves between the smallest of the best rates and the largest."""
        return float(np.ptp(self._optima))

    @property
    def regret(self) -> float:
        """The loss of the largest proxy at the rate that is best for the smallest, minus its own best loss; nats.

        NaN if that rate is outside the swept rates.
        """
        smallest, largest = self.fits[0].optimum, self.fits[-1]
        assert smallest is not None and largest.optimum is not None
        return largest.loss_at(smallest.log2_lr) - largest.optimum.loss

    @property
    def _optima(self) -> np.ndarray:
        return np.array([fit.optimum.log2_lr for fit in self.fits if fit.optimum is not None])

    @property
    def _weights(self) -> np.ndarray:
        """Coefficients of least squares: the slope is their product with the optima."""
        doublings = np.log2([getattr(fit.size, self.along) for fit in self.fits])
        centred = doublings - doublings.mean()
        return centred / (centred @ centred)


@dataclass(frozen=True)
class Study:
    """A sweep with the fit of each proxy."""

    sweep: Sweep
    fits: tuple[Fit, ...]
    """The fits of all proxies, small to large."""
    drifts: tuple[Drift, ...]
    largest: Fit
    """The proxy whose best values are transferred."""

    @property
    def values(self) -> dict[str, Any]:
        """The transferred values by key; an optimum has four digits, more than are certain."""
        lr = 2**self.largest.best_log2_lr
        carried = {key: value for key, value in self.largest.best_others.items() if CARRIED.fullmatch(key)}
        return {RATE: lr if self.largest.optimum is None else float(f"{lr:.4g}"), **carried}

    @property
    def largest_trial(self) -> TrialResult:
        """One trial of the largest proxy: all of them have the same budget and batch."""
        of_size = (trial for trial in self.sweep.trials if trial.size == self.largest.size)
        return next(trial for trial in of_size if trial.others == self.largest.best_others)

    def axis(self, key: str) -> list[Any]:
        """The values of another axis with which the largest proxy was trained; numbers are sorted."""
        trials = [trial for trial in self.sweep.trials if trial.size == self.largest.size and key in trial.others]
        values = list({_key(trial.others[key]): trial.others[key] for trial in trials}.values())
        return sorted(values) if are_numbers(values) else values


def are_numbers(values: Sequence[Any]) -> bool:
    """Whether all values are numbers, so that they have an order; truth values are not."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def relevant_sizes(sweep: Sweep, target: Config) -> tuple[Size, ...]:
    """Proxies that are evidence for the target: if rates do not hold over depths, those of its depth, if any."""
    as_deep = tuple(size for size in sweep.sizes if size.num_layers == target.model.num_layers)
    return sweep.sizes if target.mup.parametrization == "completep" or not as_deep else as_deep


def study(sweep: Sweep, target: Config) -> Study:
    """The fits of all proxies of a sweep, at those values of the other axes that are best for the largest proxy.

    Raises ValueError if no proxy that is evidence for the target finished a trial.
    """
    sizes = sorted(sweep.sizes, key=lambda size: (_num_params(sweep, size), size))
    trials = {size: [trial for trial in sweep.trials if trial.size == size] for size in sizes}
    finished = [size for size in sizes if any(np.isfinite(trial.loss) for trial in trials[size])]
    relevant = [size for size in finished if size in relevant_sizes(sweep, target)]
    if not relevant:
        raise ValueError(
            f"{sweep.folder} has no finished trial with num_layers = {target.model.num_layers}, as deep as the target: "
            "run `foretrain sweep` to its end"
        )
    own_best = {size: _best_others(trials[size]) for size in finished}
    others = own_best[relevant[-1]]
    fits = tuple(
        _fit(sweep, size, [trial for trial in trials[size] if trial.others == others], own_best.get(size, {}))
        for size in sizes
    )
    largest = next(fit for fit in fits if fit.size == relevant[-1])
    return Study(sweep, fits, (*_drifts(fits, "d_model"), *_drifts(fits, "num_layers")), largest)


def _num_params(sweep: Sweep, size: Size) -> int:
    return num_params(resized(sweep.config.model, size.d_model, size.num_layers))


def _fit(sweep: Sweep, size: Size, trials: Sequence[TrialResult], best_others: Mapping[str, Any]) -> Fit:
    optimum, problem = None, "no trial has a result: run `foretrain sweep` to its end"
    log2_lrs, losses_RS = _table(trials, sweep.grid) if trials else ((), np.empty((0, 0)))
    if trials:
        try:
            optimum, problem = find_optimum(log2_lrs, losses_RS), ""
        except NoOptimumError as error:
            problem = str(error)
    return Fit(size, _num_params(sweep, size), log2_lrs, losses_RS, optimum, problem, best_others)


def _table(trials: Sequence[TrialResult], grid: Sequence[tuple[float, int]]) -> tuple[tuple[float, ...], np.ndarray]:
    """The rates, ascending, and the losses by rate and seed; NaN for points of the grid without a result."""
    points = {*grid, *((trial.log2_lr, trial.seed) for trial in trials)}
    log2_lrs, seeds = (tuple(sorted(set(of))) for of in zip(*points, strict=True))
    losses_RS = np.full((len(log2_lrs), len(seeds)), np.nan)
    for trial in trials:
        losses_RS[log2_lrs.index(trial.log2_lr), seeds.index(trial.seed)] = trial.loss
    return log2_lrs, losses_RS


def _best_others(trials: Sequence[TrialResult]) -> Mapping[str, Any]:
    """The values of other axes at the best point of the grid, among points with results for the most seeds."""
    by_point: dict[tuple[str, float], list[TrialResult]] = defaultdict(list)
    for trial in trials:
        by_point[_key(trial.others), trial.log2_lr].append(trial)
    most = max(map(len, by_point.values()))
    complete = {point: np.mean([trial.loss for trial in of]) for point, of in by_point.items() if len(of) == most}
    best = min(complete, key=lambda point: (complete[point], point))
    return by_point[best][0].others


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _drifts(fits: Sequence[Fit], along: Axis) -> Iterator[Drift]:
    """The drifts along one size: one for each value of the other size at which at least two proxies have an optimum."""
    fixed: Axis = "num_layers" if along == "d_model" else "d_model"
    for at in sorted({getattr(fit.size, fixed) for fit in fits}):
        on_line = [fit for fit in fits if getattr(fit.size, fixed) == at and fit.optimum is not None]
        if len(on_line) > 1:
            yield Drift(along, f"{fixed} = {at}", tuple(sorted(on_line, key=lambda fit: fit.size)))
