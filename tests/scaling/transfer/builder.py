"""A made-up sweep folder, good evidence unless a defect is planted, and the target that it supports."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from foretrain.configs import load as configs
from foretrain.configs.schema import Config
from foretrain.scaling.architecture import architecture
from foretrain.scaling.records import COORD_CHECK_FILE, RESULTS_FILE, SWEEP_FILE
from foretrain.scaling.transfer.sweep_folder import CONFIG_FILE, RATE
from foretrain.scaling.transfer.transfer import Transfer, make_transfer
from foretrain.trainer.model.resize import resized
from foretrain.trainer.model.table import num_params

TOKENS_PER_PARAMETER = 20
LossOf = Callable[[int, int, float, int, Mapping[str, Any]], float]
"""The loss as a function of width, depth, log2 LR, seed and the values of other axes; infinite if it diverges."""


def valley(width: int, depth: int, log2_lr: float, seed: int, others: Mapping[str, Any]) -> float:
    """The same best rate, 2^-5.2, at every size, with a little noise."""
    noise = 0.0005 * math.cos(1e3 * (width + depth + log2_lr + 7 * seed))
    return 3 - 0.1 * math.log2(width) + 0.06 * (log2_lr + 5.2) ** 2 + 0.01 * seed + noise


@dataclass(frozen=True)
class Folder:
    """What is written; the defaults are good evidence for the default target."""

    widths: Sequence[int] = (64, 128, 256)
    depths: Sequence[int] = (4,)
    seeds: Sequence[int] = (0, 1)
    exponents: Sequence[float] = tuple(range(-9, -2))
    axes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    loss: LossOf = valley
    settings: Sequence[str] = ()
    """Settings of the config of the sweep."""
    edit: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda record: record
    """Changes the line of a trial; None leaves it out."""
    plan: Mapping[str, Any] = field(default_factory=dict)
    """More of sweep.json."""
    check: Mapping[str, Any] | None = field(default_factory=dict)
    """More of the coordinate check; None: there is none."""

    def write(self, path: Path) -> Path:
        """Write the folder of the sweep."""
        path.mkdir(parents=True, exist_ok=True)
        model = resized(_common().model, max(self.widths), max(self.depths))
        config = _save(_budgeted(_common(), num_params(model)), path / CONFIG_FILE, self.settings)
        axes = {RATE: [2.0**exponent for exponent in self.exponents], **self.axes}
        asked = {"axes": axes, "widths": self.widths, "depths": self.depths, "seeds": self.seeds, "search": "grid"}
        plan = {"hash": "5eed" * 16, "code": "0123abc", **asked, **self.plan}
        (path / SWEEP_FILE).write_text(json.dumps(plan))
        lines = [json.dumps(record) for record in self.records(config)]
        (path / RESULTS_FILE).write_text("".join(f"{line}\n" for line in lines))
        if self.check is not None:
            record = {"passed": True, "architecture": architecture(config), "code": "0123abc", "max_slope": 0.12}
            (path / COORD_CHECK_FILE).write_text(
                json.dumps({**record, "widths": [64, 128], "depths": [], **self.check})
            )
        return path

    def records(self, config: Config) -> list[dict[str, Any]]:
        """The lines of the results."""
        names, lists = [RATE, *self.axes], [[2.0**each for each in self.exponents], *self.axes.values()]
        records = [
            self._record(config, width, depth, seed, dict(zip(names, row, strict=True)))
            for width, depth, row, seed in product(self.widths, self.depths, product(*lists), self.seeds)
        ]
        return [edited for record in records if (edited := self.edit(record)) is not None]

    def _record(self, config: Config, width: int, depth: int, seed: int, values: dict[str, Any]) -> dict[str, Any]:
        others = {name: value for name, value in values.items() if name != RATE}
        loss = self.loss(width, depth, math.log2(values[RATE]), seed, others)
        model = resized(config.model, width, depth)
        return {
            "trial": hashlib.sha256(json.dumps([width, depth, seed, values]).encode()).hexdigest(),
            "d_model": width,
            "num_layers": depth,
            "seed": seed,
            "values": values,
            "parametrization": config.mup.parametrization,
            "num_params": num_params(model),
            "num_tokens": config.train.num_tokens,
            "global_batch_size": config.train.global_batch_size,
            "seq_len": config.model.seq_len,
            "status": "finished" if math.isfinite(loss) else "diverged",
            "loss": loss if math.isfinite(loss) else None,
            "val_loss": None,
            "diverged_at": None if math.isfinite(loss) else 3,
        }


def target(path: Path, width: int = 512, depth: int = 4, settings: Sequence[str] = ()) -> Path:
    """Write the config of the large run, which differs from the proxies in its size and its budget alone."""
    config = replace(_common(), model=resized(_common().model, width, depth))
    _save(_budgeted(config, num_params(config.model)), path, settings)
    return path


def transferred(folder: Path, made: Folder = Folder(), **of_target: Any) -> Transfer:
    """Write both, and carry over."""
    made.write(folder / "sweep")
    return make_transfer(folder / "sweep", str(target(folder / "target.yaml", **of_target)))


@cache
def _common() -> Config:
    return configs.load("runs/dry_run", ["model.vocab_size=512", "mup.parametrization=mup", "mup.base.d_model=64"])


def _budgeted(config: Config, num_parameters: int) -> Config:
    """Settings with the tokens for that number of parameters, a tenth of them for warm-up."""
    num_tokens = TOKENS_PER_PARAMETER * num_parameters
    schedule = replace(config.schedule, warmup_tokens=num_tokens // 10)
    return replace(config, train=replace(config.train, num_tokens=num_tokens), schedule=schedule)


def _save(config: Config, path: Path, settings: Sequence[str]) -> Config:
    configs.save(config, path)
    if settings:
        config = configs.load(path, settings)
        configs.save(config, path)
    return config
