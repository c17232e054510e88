"""Functions that ranks run in the tests of parametrizations."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from foretrain.configs.schema import Config
from foretrain.parallel.engine import Engine
from foretrain.parallel.groups import Groups, destroy_groups, init_groups
from foretrain.parallel.layout import Layout
from foretrain.trainer import build
from foretrain.trainer.model.shard import ParamShard
from foretrain.trainer.mup import parametrize
from foretrain.trainer.mup.coordinates import Coordinates, measure, measure_in
from foretrain.trainer.optimizers import param_groups
from foretrain.trainer.verification.probe import make_batch


@dataclass(frozen=True)
class Seen:
    """The measurements of one rank while it trains a config."""

    coordinates: Coordinates
    losses: list[float]
    factors: dict[str, tuple[float, ...]]
    """Peak learning rate, epsilon and decay, in the optimizer, of every parameter that this rank holds."""


def train(configs: Sequence[Config], layout: Layout, num_steps: int) -> list[Seen]:
    """Be one rank of `layout`, and train each config at its peak learning rate."""
    torch.set_num_threads(1)
    groups = init_groups(layout, "cpu", 60.0)
    seen = []
    for config in configs:
        engine, factors = _built(config, groups)
        seen.append(Seen(measure_in(config, groups, 4), _losses(config, engine, num_steps), factors))
    destroy_groups()
    return seen


def _built(config: Config, groups: Groups) -> tuple[Engine, dict[str, tuple[float, ...]]]:
    members: list[list[torch.nn.Parameter]] = []

    def remember(*args: Any) -> torch.optim.Optimizer:
        optimizer = param_groups.build_optimizer(*args)
        members.extend(list(group["params"]) for group in optimizer.param_groups)
        return optimizer

    # DeepSpeed puts flat tensors in the place of each group's parameters.
    build.build_optimizer = remember  # type: ignore[assignment]
    engine, state = build.build_engine(config, groups)
    build.build_optimizer = param_groups.build_optimizer
    return engine, _factors(engine, state.shards, members)


def _factors(
    engine: Engine, shards: Sequence[ParamShard], members: Sequence[Sequence[torch.nn.Parameter]]
) -> dict[str, tuple[float, ...]]:
    settings = {
        parameter: group
        for group, parameters in zip(engine.zero.optimizer.param_groups, members, strict=True)
        for parameter in parameters
    }
    groups = {shard.param.name: settings[shard.tensor] for shard in shards}
    return {name: (group["peak_lr"], group["eps"], group["weight_decay"]) for name, group in groups.items()}


def _losses(config: Config, engine: Engine, num_steps: int) -> list[float]:
    engine.set_lr(1.0)
    model, size = config.model, config.train.global_batch_size
    share = size // engine.groups.layout.dp
    mine = slice(engine.groups.at.dp * share, (engine.groups.at.dp + 1) * share)
    found = []
    for step in range(num_steps):
        assert model.vocab_size is not None
        tokens_BL, targets_BL = make_batch(step, model.vocab_size, size, model.seq_len)
        found.append(engine.train_step(tokens_BL[mine], targets_BL[mine]).loss)
    return found


def measure_with_decay_unscaled(configs: Sequence[Config], layout: Layout, num_steps: int) -> list[Coordinates]:
    """`measure` with a planted bug: weight decay is the same at all widths, so lr * weight_decay falls."""
    right = parametrize.scale_param

    def wrong(*args: Any) -> parametrize.ScaledParam:
        row = right(*args)
        return replace(row, param=replace(row.param, scale=replace(row.param.scale, weight_decay=1.0)))

    parametrize.scale_param = wrong  # type: ignore[assignment]
    return measure(configs, layout, num_steps)
