"""AdamW over this rank's parameters: few groups, each with its own peak learning rate and decay."""

from collections.abc import Sequence

import torch
from torch import nn

from configs.schema import OptimizerConfig
from trainer.model.gpt import LocalParam


def build_optimizer(local_params: Sequence[LocalParam], config: OptimizerConfig) -> torch.optim.AdamW:
    """torch AdamW with a group that decays (matrices and embeddings) and one that does not (gains and biases).

    A group's `peak_lr` is what the schedule multiplies. Pieces that share a tensor must agree on their group.
    """
    decays: dict[bool, dict[nn.Parameter, None]] = {True: {}, False: {}}  # dicts keep the order, and each tensor once
    for local in local_params:
        decays[local.param.is_matrix][local.parameter] = None
    assert not decays[True].keys() & decays[False].keys(), "pieces of one tensor want different groups"
    groups = [
        {
            "params": list(parameters),
            "peak_lr": config.lr,
            "weight_decay": config.weight_decay if decay else 0.0,
            "name": "decay" if decay else "no_decay",
        }
        for decay, parameters in decays.items()
        if parameters
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps)
