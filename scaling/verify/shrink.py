"""A small config with the same features as the user's: a few steps of it take a second on a CPU. Pure arithmetic.

It keeps everything that could be wrong under some layout: norms, positions, activation, biases, tied embeddings,
grouped queries, documents that share a sample, recomputation, the parametrization and the optimizer. Sizes, which only
cost time, become small, and keep the divisors that the config's own sizes have.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import lcm
from typing import Literal

from foretrain.configs.data import DataConfig
from foretrain.configs.parametrization import BaseConfig
from foretrain.configs.schema import Config, ModelConfig, ParallelConfig, TrainConfig
from foretrain.parallel.layout import Layout

Device = Literal["cpu", "cuda"]

VOCAB_SIZE = 61
"""A prime: every tensor-parallel size pads the vocabulary, and the last ranks hold fewer rows."""
INIT_STD = 0.1
"""Acts at this width as 0.02 does at about 1,000: with less, attention and feed-forward would hardly count."""
MAX_LR = 1e-3
"""At larger rates Adam turns differences in the last bits of a gradient into different weights within a few steps."""
CLIP_NORM = 0.25
"""Smaller than the gradient norms of the first steps, so that every step clips."""
MICRO_BATCH_SIZE = 2
MAX_MICROBATCHES = 24
"""Limit for the micro-batches of a step over all ranks. Meshes of 4, 6 or 8 ranks divide it, those of 5 do not."""


def shrink(config: Config, layouts: Sequence[Layout], device: Device = "cpu") -> Config:
    """A config small enough to try, and large enough for every one of `layouts` that the sizes of `config` allow.

    Its section `parallel` is empty: `parallel_config` fills it for each layout.
    """
    model = _shrink_model(config.model, layouts)
    optimizer = replace(
        config.optimizer,
        lr=min(config.optimizer.lr, MAX_LR),
        clip_norm=min(config.optimizer.clip_norm, CLIP_NORM),  # 0, which means never, stays
    )
    recompute_layers = config.train.recompute_layers
    if recompute_layers is not None:
        recompute_layers = max(1, recompute_layers * model.num_layers // config.model.num_layers)
    train = TrainConfig(
        global_batch_size=_num_microbatches(layouts) * MICRO_BATCH_SIZE,
        micro_batch_size=MICRO_BATCH_SIZE,
        seed=config.train.seed,
        device=device,
        recompute=config.train.recompute,
        recompute_layers=recompute_layers,
        compile=config.train.compile,
    )
    data = DataConfig(packing=config.data.packing)
    mup = replace(config.mup, base=_base(model))
    return Config(
        plugins=config.plugins,
        model=model,
        parallel=ParallelConfig(),
        mup=mup,
        optimizer=optimizer,
        train=train,
        data=data,
    )


def _shrink_model(model: ModelConfig, layouts: Sequence[Layout]) -> ModelConfig:
    max_parts = max(layout.tp * layout.cp for layout in layouts)  # heads and positions are split into that many
    max_stages = min(model.num_layers, max(layout.num_stages for layout in layouts))
    num_kv_heads = model.block_shape.num_kv_heads
    small_kv_heads = shrink_keeping_divisors(num_kv_heads, max_parts)
    return replace(
        model,
        num_layers=max(4, max_stages) + 1,  # so that some stages are one block longer than others
        d_model=32,
        num_heads=small_kv_heads * (model.num_heads // num_kv_heads),
        num_kv_heads=None if model.num_kv_heads is None else small_kv_heads,
        head_dim=8,
        d_ff=shrink_keeping_divisors(model.block_shape.d_ff, max_parts, at_least=48),
        vocab_size=VOCAB_SIZE,
        seq_len=shrink_keeping_divisors(model.seq_len, max_parts, at_least=16),
        init_std=INIT_STD,
    )


def _base(model: ModelConfig) -> BaseConfig:
    """A base shape for which no factor of a parametrization is 1, and for which most factors differ."""
    assert model.head_dim is not None and model.d_ff is not None
    return BaseConfig(
        d_model=model.d_model // 2,
        num_layers=2,
        num_heads=model.num_heads,
        num_kv_heads=model.num_kv_heads,
        head_dim=model.head_dim // 4,
        d_ff=model.d_ff // 3,
    )


def shrink_keeping_divisors(number: int, max_divisor: int, at_least: int = 1) -> int:
    """The smallest number >= at_least that has every divisor d <= max_divisor of `number`."""
    unit = lcm(*(d for d in range(1, max_divisor + 1) if number % d == 0))
    return -(-at_least // unit) * unit


def _num_microbatches(layouts: Sequence[Layout]) -> int:
    """Micro-batches over all data-parallel ranks: schedules need a multiple of dp * pp, and at least twice that."""
    meshes = {layout.dp * layout.pp for layout in layouts}
    unit = min(lcm(*meshes), MAX_MICROBATCHES)
    return -(-max(8, 2 * max(meshes)) // unit) * unit
