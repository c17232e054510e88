"""What a verification will try, and what it refuses and why: known before a process starts. Pure."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from foretrain.configs.schema import Config, ParallelConfig
from foretrain.parallel.layout import Layout, LayoutError, check
from foretrain.scaling.layouts import all_layouts, parallel_config
from foretrain.scaling.verify.shrink import Device, shrink
from foretrain.trainer.optimizers.entry import check_layout as check_optimizer

Precision = Literal["fp32", "bf16"]
PRECISIONS: dict[str, tuple[Precision, ...]] = {"fp32": ("fp32",), "bf16": ("bf16",), "both": ("fp32", "bf16")}


@dataclass(frozen=True)
class LayoutTrial:
    """One layout to try in one precision."""

    layout: Layout
    precision: Precision

    def __str__(self) -> str:
        return f"{self.layout} {self.precision}"


@dataclass(frozen=True)
class VerifyPlan:
    """Everything that a verification does."""

    config: Config
    """The user's config, made small; each trial sets its own precision."""
    trials: tuple[LayoutTrial, ...]
    refused: tuple[tuple[LayoutTrial, str], ...]
    """The trials that this config cannot run, and the reasons, one on each line."""
    num_steps: int
    parallel: ParallelConfig
    """The user's settings; those that are not part of a layout hold for each trial."""

    def config_of(self, trial: LayoutTrial) -> Config:
        """The config that the ranks of a trial get."""
        train = replace(self.config.train, precision=trial.precision)
        return replace(self.config, train=train, parallel=parallel_config(trial.layout, self.parallel))


def make_plan(
    config: Config,
    named: Sequence[Layout] = (),
    *,
    max_processes: int = 4,
    num_steps: int = 10,
    precision: str = "fp32",
    sample: int | None = None,
    seed: int = 0,
    device: Device = "cpu",
) -> VerifyPlan:
    """The plan to try the `named` layouts; without them every legal layout of up to `max_processes` ranks, or `sample`
    of those at random.

    A layout is legal if the config's own sizes allow it; only the batch size is ignored. Raises ValueError for a named
    layout that is refused, and for numbers that leave nothing to do.
    """
    for name, value in (("--max-processes", max_processes), ("--steps", num_steps), ("--sample", sample)):
        if value is not None and value < 1:
            raise ValueError(f"{name} {value}: use 1 or more")
    if precision not in PRECISIONS:
        raise ValueError(f"--precision {precision}: use one of {', '.join(PRECISIONS)}")
    candidates = list(named) or list(all_layouts(max_processes))
    plan = VerifyPlan(shrink(config, candidates, device), (), (), num_steps, config.parallel)
    legal, refused = [], []
    for trial in (LayoutTrial(layout, kind) for kind in PRECISIONS[precision] for layout in candidates):
        try:
            check(trial.layout, config.model, plan.config_of(trial).train)
            check_optimizer(config.optimizer, trial.layout)
            legal.append(trial)
        except LayoutError as error:
            refused.append((trial, str(error)))
    if named and refused:
        raise ValueError("\n".join(f"{trial}: {reasons}" for trial, reasons in refused))
    if sample is not None and sample < len(legal):
        chosen = random.Random(seed).sample(range(len(legal)), sample)
        legal = [legal[index] for index in sorted(chosen)]
    return replace(plan, trials=tuple(legal), refused=tuple(refused))
