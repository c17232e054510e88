"""Which engine of data parallelism a config has."""

from collections.abc import Sequence

import torch
from torch import nn

from foretrain.configs.schema import Config
from foretrain.parallel.groups import Groups
from foretrain.parallel.zero.base import Zero


def build_zero(
    groups: Groups,
    stages: Sequence[nn.Module],
    optimizer: torch.optim.Optimizer,
    moments: Sequence[str],
    config: Config,
    tied: Sequence[nn.Parameter] = (),
) -> Zero:
    """The engine of this rank's stages: DeepSpeed's where gradients or weights are sharded, or states offloaded."""
    if groups.layout.zero_stage >= 2 or config.parallel.offload_optimizer:
        from foretrain.parallel.zero.with_deepspeed import DeepSpeedZero

        return DeepSpeedZero(groups, stages, optimizer, moments, config, tied)
    from foretrain.parallel.zero.bucketed import BucketedZero

    return BucketedZero(groups, stages, optimizer, moments, config, tied)
