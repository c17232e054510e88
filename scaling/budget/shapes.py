"""The shapes that a model may have, and their sizes: in the proportions of a config, and near an aspect. Pure.

Parameters and FLOPs are linear in the number of layers, so two parameter tables give those of all depths of a width.
"""

import math
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from itertools import count

from foretrain.configs.model import ModelConfig
from foretrain.configs.schema import TrainConfig
from foretrain.parallel.layout import Layout, LayoutError, check
from foretrain.trainer.model.resize import resized, width_step
from foretrain.trainer.model.size import ModelSize
from foretrain.trainer.model.table import check_sharding

MAX_ASPECT_CHANGE = 1.5
"""The largest factor between d_model / num_layers of a shape and the aspect that is wanted."""
VOCAB_UNIT = 128
"""A vocabulary is padded to a multiple of this, which matrix units of GPUs want, and of tp."""
MAX_PADDING = 0.05
"""The largest share of rows that is added for VOCAB_UNIT: smaller vocabularies are padded for tp alone."""


@dataclass(frozen=True)
class Shape:
    """A legal shape."""

    d_model: int
    num_layers: int
    size: ModelSize
    off_aspect: float
    """The logarithm of its d_model / num_layers over the aspect that is wanted, and MAX_ASPECT_CHANGE at most; 0 if the
    depth is fixed."""


@dataclass(frozen=True)
class ShapeRule:
    """Which shapes are looked at."""

    model: ModelConfig
    """The model in whose proportions all shapes are: heads as wide, and numbers of heads and d_ff as d_model."""
    layout: Layout
    train: TrainConfig
    aspect: float | None
    """d_model / num_layers; None: all shapes are as deep as the model."""

    def model_at(self, d_model: int, num_layers: int) -> ModelConfig:
        """The model of a shape."""
        return resized(self.model, d_model, num_layers)


def padded_vocabulary(vocab_size: int, tp: int) -> int:
    """Rows of the embedding for a vocabulary: a multiple of tp, and of VOCAB_UNIT if that adds few rows."""
    units = (math.lcm(VOCAB_UNIT, tp), tp)
    large, small = (-(-vocab_size // unit) * unit for unit in units)
    return large if large <= (1 + MAX_PADDING) * vocab_size else small


def shapes(rule: ShapeRule, most_params: float) -> Iterator[Shape]:
    """Every legal shape of up to `most_params` parameters without embeddings, narrow to wide, and shallow to deep.

    The narrowest legal width is always among them. Raises LayoutError if the layout allows no width.
    """
    step, has_one = width_step(rule.model), False
    surely_legal = step * rule.layout.tp * rule.layout.cp  # its heads and its d_ff are multiples of both
    for width in count(step, step):
        depths, sizes = _depths(rule, width), _Sizes.of(rule, width)
        if has_one and (not depths or sizes.at(depths[0]).num_params_without_embeddings > most_params):
            return
        try:
            _check_legal(rule, width)
        except LayoutError:
            if width >= surely_legal and not has_one:
                raise
            continue
        for depth in depths:
            if sizes.at(depth).num_params_without_embeddings > most_params and has_one:
                break  # deeper ones are larger
            yield Shape(width, depth, sizes.at(depth), _off_aspect(rule, width, depth))
        has_one = has_one or bool(depths)


def _depths(rule: ShapeRule, width: int) -> range:
    """The depths of a width that are as near to the aspect as MAX_ASPECT_CHANGE, and enough for all stages."""
    if rule.aspect is None:
        return range(rule.model.num_layers, rule.model.num_layers + 1)
    best = width / rule.aspect
    low, high = math.ceil(best / MAX_ASPECT_CHANGE), math.floor(best * MAX_ASPECT_CHANGE)
    return range(max(1, low, rule.layout.num_stages), max(1, high) + 1)


def _off_aspect(rule: ShapeRule, width: int, depth: int) -> float:
    """The logarithm of d_model / num_layers over the aspect; one layer may be farther off than MAX_ASPECT_CHANGE."""
    if rule.aspect is None:
        return 0.0
    farthest = math.log(MAX_ASPECT_CHANGE)
    return max(-farthest, min(farthest, math.log(width / depth / rule.aspect)))


@dataclass(frozen=True)
class _Sizes:
    """The sizes of all depths of a width."""

    one: ModelSize
    """With one layer."""
    two: ModelSize
    """With two layers."""

    @classmethod
    def of(cls, rule: ShapeRule, width: int) -> "_Sizes":
        return cls(ModelSize.of(rule.model_at(width, 1)), ModelSize.of(rule.model_at(width, 2)))

    def at(self, depth: int) -> ModelSize:
        """The size with `depth` layers."""
        pairs = zip(astuple(self.one), astuple(self.two), strict=True)
        return ModelSize(*(first + (depth - 1) * (second - first) for first, second in pairs))


def _check_legal(rule: ShapeRule, width: int) -> None:
    """Raise LayoutError if the layout cannot train a width."""
    depth = rule.model.num_layers if rule.aspect is None else max(1, rule.layout.num_stages)
    model = rule.model_at(width, depth)
    check(rule.layout, model, rule.train)
    check_sharding(model, rule.layout)
