"""What a verification will try, and what it will not and why: known before a process starts. Pure."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from foretrain.configs.schema import Config, ParallelConfig
from foretrain.parallel.layout import Layout, LayoutError, check
from foretrain.scaling.layouts import all_layouts
from foretrain.scaling.verify.shrink import shrink, with_knobs

Precision = Literal["fp32", "bf16"]
PRECISIONS: dict[str, tuple[Precision, ...]] = {"fp32": ("fp32",), "bf16": ("bf16",), "both": ("fp32", "bf16")}


@dataclass(frozen=True)
class Trial:
    """One layout to try in one precision."""

    layout: Layout
    precision: Precision

    def __str__(self) -> str:
        return f"{self.layout} {self.precision}"


@dataclass(frozen=True)
class Plan:
    """All that a verification does."""

    config: Config
    """The shrunk config; its precision is that of each trial."""
    trials: tuple[Trial, ...]
    refused: tuple[tuple[Trial, str], ...]
    """What this config cannot run, each with the reasons, a line each."""
    num_steps: int
    knobs: ParallelConfig
    """The config's own: what is no part of a layout goes for each trial."""

    def config_of(self, trial: Trial) -> Config:
        """What the ranks of a trial get."""
        config = replace(self.config, train=replace(self.config.train, precision=trial.precision))
        return with_knobs(config, self.knobs, trial.layout)


def make_plan(
    config: Config,
    named: Sequence[Layout] = (),
    *,
    max_processes: int = 4,
    num_steps: int = 10,
    precision: str = "fp32",
    sample: int | None = None,
    seed: int = 0,
) -> Plan:
    """Plan to try the `named` layouts, or else every legal one of up to `max_processes` ranks, or `sample` of those.

    Legal is what the config's own sizes allow; only its batch is taken to be another. Raises ValueError for a named
    layout that is refused, and for numbers that leave nothing to do.
    """
    for name, value in (("--max-processes", max_processes), ("--steps", num_steps), ("--sample", sample)):
        if value is not None and value < 1:
            raise ValueError(f"{name} {value}: use 1 or more")
    if precision not in PRECISIONS:
        raise ValueError(f"--precision {precision}: use one of {', '.join(PRECISIONS)}")
    candidates = list(named) or list(all_layouts(max_processes))
    plan = Plan(shrink(config, candidates), (), (), num_steps, config.parallel)
    legal, refused = [], []
    for trial in (Trial(layout, kind) for kind in PRECISIONS[precision] for layout in candidates):
        try:
            check(trial.layout, config.model, plan.config_of(trial).train)
            legal.append(trial)
        except LayoutError as error:
            refused.append((trial, str(error)))
    if named and refused:
        raise ValueError("\n".join(f"{trial}: {reasons}" for trial, reasons in refused))
    if sample is not None and sample < len(legal):
        chosen = random.Random(seed).sample(range(len(legal)), sample)
        legal = [legal[index] for index in sorted(chosen)]
    return replace(plan, trials=tuple(legal), refused=tuple(refused))
