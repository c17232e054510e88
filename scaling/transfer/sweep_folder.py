"""What a folder of `foretrain sweep` holds: what was asked, the base config, and the result of each trial."""

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
from foretrain.trainer.run_folder import ENVIRONMENT_FILE

RATE = "optimizer.lr"
"""The axis that is fitted; of others the best value of the grid is taken."""
PLAN_FILE, CONFIG_FILE, RESULTS_FILE, TRIALS = "sweep.json", "config.yaml", "results.jsonl", "trials"


@dataclass(frozen=True, order=True)
class Size:
    """What tells one proxy from another."""

    d_model: int
    num_layers: int

    def __str__(self) -> str:
        return f"d_model = {self.d_model}, num_layers = {self.num_layers}"


@dataclass(frozen=True)
class Trial:
    """One proxy, trained to the end of its budget or until it diverged."""

    key: str
    size: Size
    seed: int
    log2_lr: float
    others: Mapping[str, Any]
    """Values of the other swept axes."""
    num_tokens: int
    tokens_per_step: int
    loss: float
    """Nats per token; infinite where it diverged."""


@dataclass(frozen=True)
class Sweep:
    """A sweep and its results."""

    folder: Path
    hash: str
    """Of what was asked."""
    code: str | None
    """The version of the code that trained the proxies."""
    config: Config
    """The base config; a proxy differs from it in size, seed and the swept values."""
    search: str
    """How its points were chosen: "grid", "random" or "halving"."""
    sizes: tuple[Size, ...]
    """Asked for; not all need have results."""
    grid: tuple[tuple[float, int], ...]
    """log2 LR and seed of each trial that every size was to have, for any values of other axes; empty unless a grid."""
    trials: tuple[Trial, ...]
    """Those of the whole budget, in an order that is not that of the lines."""

    @property
    def config_file(self) -> Path:
        """Where the base config lies."""
        return self.folder / CONFIG_FILE

    @property
    def name(self) -> str:
        """How evidence calls it."""
        return f"sweep {self.folder.resolve().name} ({self.hash[:16]}; code {self.code or 'unknown'})"


def read_sweep(folder: Path) -> Sweep:
    """The sweep in a folder. Raises ValueError, with what to do, where it is not one, or where nothing has ended.

    A last line that was cut short is left out, and so are trials of a part of the budget.
    """
    for name in (PLAN_FILE, CONFIG_FILE, RESULTS_FILE):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name}: give the --out folder of a `foretrain sweep` that has results")
    asked = _read_plan(folder / PLAN_FILE)
    config = load((folder / CONFIG_FILE).resolve())
    trials = tuple(_trials(folder / RESULTS_FILE, config.train.num_tokens))
    if not any(math.isfinite(trial.loss) for trial in trials):
        raise ValueError(
            f"{folder / RESULTS_FILE} has no trial that finished its budget: run `foretrain sweep` to its end, and "
            "with smaller learning rates if all diverged"
        )
    sizes = {Size(width, depth) for width in asked["widths"] for depth in asked["depths"]}
    sizes |= {trial.size for trial in trials}
    grid = product(map(math.log2, asked["axes"][RATE]), asked["seeds"]) if asked["search"] == "grid" else ()
    code = _code_of(folder, trials) or asked.get("code")
    return Sweep(folder, asked["hash"], code, config, asked["search"], tuple(sorted(sizes)), tuple(grid), trials)


def _code_of(folder: Path, trials: Sequence[Trial]) -> str | None:
    """The versions of the code that trained the trials, by what each left in its folder; None where none did."""
    versions = set()
    for trial in trials:
        with suppress(OSError, ValueError, KeyError):
            record = json.loads((folder / TRIALS / trial.key[:16] / ENVIRONMENT_FILE).read_text(encoding="utf-8"))
            versions.add(str(record["git"]))
    return " and ".join(sorted(versions)) or None


def _read_plan(path: Path) -> dict[str, Any]:
    try:
        asked = json.loads(path.read_text(encoding="utf-8"))
        asked["hash"], asked["search"], [*asked["widths"], *asked["depths"], *asked["seeds"], *asked["axes"]]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not what `foretrain sweep` writes ({error!r}): run the sweep again") from error
    if RATE not in asked["axes"]:
        raise ValueError(
            f"{path.parent} did not sweep {RATE}, which is what transfer fits: give --over {RATE}=2^-10..2^-3"
        )
    return asked


def _trials(path: Path, budget_tokens: int) -> Iterator[Trial]:
    """Each trial once, by its key."""
    by_key: dict[str, Trial] = {}
    by_place: dict[str, Trial] = {}
    for number, record in _records(path):
        try:
            if record.get("budget_tokens", math.inf) < max(budget_tokens, record["num_tokens"]):
                continue
            trial = _trial(record)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}:{number} is not the result of a trial ({error!r}): {ADVICE}") from error
        place = json.dumps([str(trial.size), trial.seed, trial.log2_lr, trial.others], sort_keys=True)
        known = by_key.setdefault(trial.key, trial), by_place.setdefault(place, trial)
        if known != (trial, trial):
            raise ValueError(f"{path}:{number} contradicts an earlier line about the same trial: {ADVICE}")
    yield from sorted(by_key.values(), key=lambda trial: (trial.size, trial.key))


ADVICE = "delete the line, and run `foretrain sweep` again, which keeps the trials that are done"


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    *whole, last = path.read_bytes().split(b"\n")
    for number, line in enumerate([*whole, last], start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            if number > len(whole):  # torn, or what follows the last end of a line: nothing
                return
            raise ValueError(f"{path}:{number} is not JSON: {ADVICE}") from error
        if not isinstance(record, dict):
            raise ValueError(f"{path}:{number} is not the result of a trial: {ADVICE}")
        yield number, record


def _trial(record: dict[str, Any]) -> Trial:
    values = dict(record["values"])
    diverged = {"finished": False, "diverged": True}[record["status"]]
    loss = math.inf if diverged else float(record["loss"])
    if math.isnan(loss):
        raise ValueError("its loss is no number")
    return Trial(
        key=str(record["trial"]),
        size=Size(int(record["d_model"]), int(record["num_layers"])),
        seed=int(record["seed"]),
        log2_lr=math.log2(values.pop(RATE)),
        others=values,
        num_tokens=int(record["num_tokens"]),
        tokens_per_step=int(record["global_batch_size"]) * int(record["seq_len"]),
        loss=loss,
    )
