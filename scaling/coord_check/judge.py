"""Slopes of log2(statistic) over log2(width or depth), and which of them are too steep. Pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean, linear_regression
from typing import Literal, Protocol

from foretrain.configs.model import ModelConfig
from foretrain.scaling.coord_check.plan import Axis, Ladder, Rung
from foretrain.trainer.model.spec import Param
from foretrain.trainer.model.table import layers_of, param_table

Kind = Literal["size", "change"]
KINDS: tuple[Kind, ...] = ("size", "change")

TOLERANCES: dict[Axis, float] = {"width": 0.2, "depth": 0.4}
"""A statistic passes if it grows or shrinks at most as this power of the size of the model.

A wrong rule is wrong by a power of 1/2 or more. Over widths of 64 to 512, correct models were measured below 0.15. Over
depths, the share of the residual stream that blocks contribute at the start falls as depth^-1/2, and is larger with
larger initial weights: correct models of 2 to 16 blocks reached 0.39, planted bugs 0.44 and more.
"""
LAST, LOGITS = "blocks.last", "logits"


class Measured(Protocol):
    """The statistics of a model by module, after each step, step 0 first; see
    trainer/mup/coordinates.py:Coordinates."""

    @property
    def size(self) -> Mapping[str, Sequence[float]]: ...

    @property
    def change(self) -> Mapping[str, Sequence[float]]: ...

    @property
    def losses(self) -> Sequence[float]: ...


@dataclass(frozen=True)
class Slope:
    """How one statistic of one module at one step depends on the size of the model."""

    axis: Axis
    module: str
    kind: Kind
    step: int
    value: float | None
    """The exponent; None if a value is zero or not finite, so that no line goes through them."""
    is_at_an_edge: bool = False
    """Whether what the module reads depends on the number of blocks; see `_at_an_edge`."""

    @property
    def is_judged(self) -> bool:
        """Whether the slope must be level: some are not in correct models (`is_at_an_edge`, `_is_remnant`)."""
        if self.axis == "depth":
            return not (self.kind == "change" and self.is_at_an_edge)
        return not self._is_remnant

    @property
    def _is_remnant(self) -> bool:
        """Whether this may be the output of a random head, which falls as width^-1/2.

        It hides what is learned in the size of the logits, and at the first step in their change.
        """
        may_fall = self.module == LOGITS and (self.kind == "size" or self.step == 1)
        return may_fall and self.value is not None and self.value < 0

    @property
    def passed(self) -> bool:
        """Whether the statistic neither grows nor shrinks with the model."""
        return not self.is_judged or (self.value is not None and abs(self.value) <= TOLERANCES[self.axis])

    @property
    def magnitude(self) -> float:
        """The steepness, by which slopes are ranked."""
        return math.inf if self.value is None else abs(self.value)


def fit(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """The exponent p of values ~ sizes ** p, by least squares in logarithms; None if a value is not positive."""
    if not all(math.isfinite(value) and value > 0 for value in values):
        return None
    return linear_regression(list(map(math.log2, sizes)), list(map(math.log2, values))).slope


def values_of(
    ladder: Ladder, measured: Mapping[Rung, Sequence[Measured]], module: str, kind: Kind, step: int
) -> list[float]:
    """A statistic of each rung of the ladder: the mean over the seeds."""
    return [
        fmean(getattr(seed, kind)[_name_in(module, rung)][step] for seed in measured[rung]) for rung in ladder.rungs
    ]


def modules_of(ladder: Ladder, measured: Mapping[Rung, Sequence[Measured]], model: ModelConfig) -> list[str]:
    """The modules that every rung has, in the order of the data flow; `model` may have any size.

    Over widths these are all. Over depths these are the modules outside the blocks, the layers of the first block and
    of the last, which is named `blocks.last`, and the residual stream after the last block. The stream after the first
    block is left out: it holds one block of many, whose share falls with depth.
    """
    names = [_shared_names(rung, ladder.axis, measured[rung][0]) for rung in ladder.rungs]
    shared = [name for name in names[0] if all(name in others for others in names)]
    return sorted(shared, key=partial(_place, _one_block(model)))


def slopes_of(
    ladder: Ladder, measured: Mapping[Rung, Sequence[Measured]], steps: Sequence[int], model: ModelConfig
) -> list[Slope]:
    """The slope of every module and statistic at each of `steps`; `model` may have any size."""
    edge = _at_an_edge(model)

    def slope(module: str, kind: Kind, step: int) -> Slope:
        exponent = fit(ladder.sizes, values_of(ladder, measured, module, kind, step))
        return Slope(ladder.axis, module, kind, step, exponent, module in edge)

    modules = modules_of(ladder, measured, model)
    return [slope(module, kind, step) for module in modules for kind in KINDS for step in steps]


def failures(measured: Mapping[Rung, Sequence[Measured]]) -> Iterator[str]:
    """A line for each model and seed that did not train, and for each statistic that is not a positive number."""
    for rung in sorted(measured):
        for seed, each in enumerate(measured[rung]):
            yield from (f"{rung}, seed {seed}: {problem}" for problem in _failures_of(each))


def _failures_of(measured: Measured) -> Iterator[str]:
    diverged = [step for step, loss in enumerate(measured.losses) if not math.isfinite(loss)]
    if diverged:
        yield f"diverged: the loss is {measured.losses[diverged[0]]:g} in step {diverged[0] + 1}: try a smaller --lr"
        return
    for kind in KINDS:
        for module, values in getattr(measured, kind).items():
            for step, value in enumerate(values):
                if not math.isfinite(value) or (value <= 0 and step > 0):
                    yield f"{module} has a {kind} of {value:g} after step {step}"
                    break


def _one_block(model: ModelConfig) -> list[Param]:
    """The parameter table of `model` with one block; sizes do not matter here."""
    return param_table(replace(model, num_layers=1, vocab_size=1))


def _at_an_edge(model: ModelConfig) -> set[str]:
    """Modules that read a share of the 2 L updates of the residual stream which depends on L: 1 of them, or 2 L - 2.

    They are the last layer of the first block, and the first layer of the last block. Their change levels off only in
    deep models: from 2 to 16 blocks it was measured to go as depth^-0.3 and depth^0.3.
    """
    readers = [param.name.split(".", 2)[2] for param in _one_block(model) if param.reads_residual]
    first_layer = next(iter(layers_of(model)))
    return {
        f"{LAST if name.startswith(f'{first_layer}.') else 'blocks.0'}.{name.removesuffix('.weight')}"
        for name in readers
    }


def _place(table: Sequence[Param], module: str) -> tuple[float, float, float, str]:
    """The position of a module, or of a parameter, in the data flow; modules are sorted by it."""
    outer, _, rest = module.partition(".")
    number, _, part = rest.partition(".") if outer == "blocks" else ("0", "", module)
    # The residual stream, "blocks.3", comes after all parts of its block, and the logits after everything.
    names = [f"{param.name.removeprefix('blocks.0.')}." for param in table]
    inside = next((i for i, name in enumerate(names) if part and name.startswith(f"{part}.")), math.inf)
    first = next(i for i, param in enumerate(table) if param.in_block) if outer == "blocks" else inside
    return first, math.inf if number == "last" else int(number), inside, part


def _name_in(module: str, rung: Rung) -> str:
    return module.replace(LAST, f"blocks.{rung.depth - 1}")


def _shared_names(rung: Rung, axis: Axis, measured: Measured) -> list[str]:
    if axis == "width":
        return list(measured.size)
    last = f"blocks.{rung.depth - 1}"
    shared = []
    for name in measured.size:
        block = ".".join(name.split(".")[:2])
        if not name.startswith("blocks.") or (block == "blocks.0" and name != block):
            shared.append(name)
        if block == last:
            shared.append(LAST + name.removeprefix(last))
    return shared
