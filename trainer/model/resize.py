"""A model at another width or depth: heads and feed-forward width in proportion, and heads as wide as before."""

from dataclasses import replace
from math import gcd, lcm

from foretrain.configs.schema import ModelConfig


def resized(
    model: ModelConfig,
    d_model: int | None = None,
    num_layers: int | None = None,
    *,
    num_heads: int | None = None,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    d_ff: int | None = None,
) -> ModelConfig:
    """`model` with the given width and number of layers (None: its own), in its own proportions.

    The width of a head and the number of query heads per key-value head stay the same. Sizes that are given are used as
    they are. Raises ValueError, with the widths that are possible, if a size in proportion is not a whole number.
    """
    width = d_model or model.d_model

    def part(name: str, size: int | None, new: int, old: int) -> int | None:
        if size is None or size * new % old == 0:
            return size and size * new // old
        raise ValueError(
            f"a model of d_model = {width} in the proportions of this one (d_model = {model.d_model}, {name} = {size})"
            f" would have {name} = {size * new / old:g}: take a multiple of {width_step(model)}"
        )

    heads = num_heads or part("num_heads", model.num_heads, width, model.d_model)
    assert heads is not None
    return replace(
        model,
        d_model=width,
        num_layers=num_layers or model.num_layers,
        num_heads=heads,
        num_kv_heads=num_kv_heads or part("num_kv_heads", model.num_kv_heads, heads, model.num_heads),
        head_dim=head_dim or model.head_dim,
        d_ff=d_ff or part("d_ff", model.d_ff, width, model.d_model),
    )


def width_step(model: ModelConfig) -> int:
    """The smallest width in the proportions of `model`; all possible widths are multiples of it."""
    parts = [size for size in (model.num_heads, model.num_kv_heads, model.d_ff) if size is not None]
    return lcm(*(model.d_model // gcd(size, model.d_model) for size in parts))
