"""The sweep in a folder that `foretrain sweep` wrote: what was asked, the base config, the result of each trial."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from foretrain.configs.load import load
from foretrain.configs.schema import Config
from foretrain.scaling.records import RESULTS_FILE, SWEEP_FILE, TRIALS, SweepRecord, TrialRecord, from_json
from foretrain.trainer.run.folder import CONFIG_FILE, ENVIRONMENT_FILE

RATE = "optimizer.lr"
"""The axis that is fitted; for other axes the best value of the grid is taken."""
ADVICE = "delete the line, and run `foretrain sweep` again, which keeps the trials that are done"


@dataclass(frozen=True, order=True)
class Size:
    """The size of a proxy."""

    d_model: int
    num_layers: int

    def __str__(self) -> str:
        return f"d_model = {self.d_model}, num_layers = {self.num_layers}"


@dataclass(frozen=True)
class TrialResult:
    """One proxy, trained on its full budget or until it diverged."""

    key: str
    size: Size
    seed: int
    log2_lr: float
    others: Mapping[str, Any]
    """Values of the other swept axes."""
    num_tokens: int
    tokens_per_step: int
    loss: float
    """Nats per token; infinite if it diverged."""


@dataclass(frozen=True)
class Sweep:
    """A sweep and its results."""

    folder: Path
    hash: str
    """Changes with what was asked."""
    code: str | None
    """The version of the code that trained the proxies."""
    config: Config
    """The base config; a proxy differs from it in size, seed and the swept values."""
    search: str
    """How its points were chosen: "grid", "random" or "halving"."""
    sizes: tuple[Size, ...]
    """The sizes that were asked for, also those without a result."""
    grid: tuple[tuple[float, int], ...]
    """log2 LR and seed of the trials that every size should have, for any values of other axes; empty unless a grid."""
    trials: tuple[TrialResult, ...]
    """Those of the full budget, in an order that does not depend on that of the lines."""

    @property
    def name(self) -> str:
        """The name of the sweep in evidence."""
        return f"sweep {self.folder.resolve().name} ({self.hash[:16]}; code {self.code or 'unknown'})"


def read_sweep(folder: Path) -> Sweep:
    """The sweep in a folder. Raises ValueError, with what to do, if it is not a sweep, or if no trial has ended.

    A last line that is cut short is left out, and so are trials on a part of the budget.
    """
    for name in (SWEEP_FILE, CONFIG_FILE, RESULTS_FILE):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name}: give the --out folder of a `foretrain sweep` that has results")
    asked = _read_asked(folder / SWEEP_FILE)
    config = load((folder / CONFIG_FILE).resolve())
    trials = tuple(_trials(folder / RESULTS_FILE, config.train.num_tokens))
    if not any(math.isfinite(trial.loss) for trial in trials):
        raise ValueError(
            f"{folder / RESULTS_FILE} has no trial that finished its budget: run `foretrain sweep` to its end, and "
            "with smaller learning rates if all diverged"
        )
    sizes = {Size(width, depth) for width in asked.widths for depth in asked.depths}
    sizes |= {trial.size for trial in trials}
    grid = product(map(math.log2, asked.axes[RATE]), asked.seeds) if asked.search == "grid" else ()
    code = _code_of(folder, trials) or asked.code
    return Sweep(folder, asked.hash, code, config, asked.search, tuple(sorted(sizes)), tuple(grid), trials)


def _code_of(folder: Path, trials: Sequence[TrialResult]) -> str | None:
    """The versions of the code that trained the trials, from the folder of each; None if no folder has one."""
    versions = set()
    for trial in trials:
        with suppress(OSError, ValueError, KeyError):
            record = json.loads((folder / TRIALS / trial.key[:16] / ENVIRONMENT_FILE).read_text(encoding="utf-8"))
            versions.add(str(record["git"]))
    return " and ".join(sorted(versions)) or None


def _read_asked(path: Path) -> SweepRecord:
    try:
        asked = from_json(SweepRecord, path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not what `foretrain sweep` writes ({error}): run the sweep again") from error
    if RATE not in asked.axes:
        raise ValueError(
            f"{path.parent} did not sweep {RATE}, which is what transfer fits: give --over {RATE}=2^-10..2^-3"
        )
    return asked


def _trials(path: Path, budget_tokens: int) -> Iterator[TrialResult]:
    """Each trial of the full budget once, by its key."""
    by_key: dict[str, TrialResult] = {}
    by_point: dict[str, TrialResult] = {}
    for number, record in _records(path):
        if (record.budget_tokens or math.inf) < max(budget_tokens, record.num_tokens):
            continue
        try:
            trial = _trial(record)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}:{number} is not the result of a trial ({error!r}): {ADVICE}") from error
        point = json.dumps([str(trial.size), trial.seed, trial.log2_lr, trial.others], sort_keys=True)
        known = by_key.setdefault(trial.key, trial), by_point.setdefault(point, trial)
        if known != (trial, trial):
            raise ValueError(f"{path}:{number} contradicts an earlier line about the same trial: {ADVICE}")
    yield from sorted(by_key.values(), key=lambda trial: (trial.size, trial.key))


def _records(path: Path) -> Iterator[tuple[int, TrialRecord]]:
    *complete, last = path.read_bytes().split(b"\n")
    for number, line in enumerate([*complete, last], start=1):
        try:
            json.loads(line)
        except ValueError as error:
            if number > len(complete):  # a line that is cut short, or nothing after the last end of a line
                return
            raise ValueError(f"{path}:{number} is not JSON: {ADVICE}") from error
        try:
            yield number, from_json(TrialRecord, line)
        except ValueError as error:
            raise ValueError(f"{path}:{number} is not the result of a trial ({error}): {ADVICE}") from error


def _trial(record: TrialRecord) -> TrialResult:
    values = dict(record.values)
    loss = math.inf if record.status == "diverged" else record.loss
    if loss is None or math.isnan(loss):
        raise ValueError("its loss is not a number")
    return TrialResult(
        key=record.trial,
        size=Size(record.d_model, record.num_layers),
        seed=record.seed,
        log2_lr=math.log2(values.pop(RATE)),
        others=values,
        num_tokens=record.num_tokens,
        tokens_per_step=record.global_batch_size * record.seq_len,
        loss=loss,
    )
