"""The reference for one curve: the full model in one process and one batch, with nothing but torch.

It shares modules, initial weights, objective and optimizer with what is compared to it. It has no megatron-core, no
DeepSpeed, no pipeline and no micro-batches, and its own clipping, parameter groups and choice of what decays. Documents
that share a sample run one by one, each as a sample of its own.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.schema import Config
from foretrain.parallel.loss import IGNORE
from foretrain.parallel.tensor import TensorParallel
from foretrain.registry import import_plugins
from foretrain.trainer.model.gpt import Stage, build_model
from foretrain.trainer.mup.parametrize import blueprint
from foretrain.trainer.mup.table import Parametrization
from foretrain.trainer.objectives.base import objective_of
from foretrain.trainer.optimizers.entry import entry_of
from foretrain.trainer.verification.curve import Curve
from foretrain.trainer.verification.probe import hash_tensor, make_samples


def reference(config: Config, dtype_name: str, num_steps: int, table: Parametrization | None = None) -> Curve:
    """The curve of `num_steps` steps at the peak learning rate, computed in float32 or float64 on one thread.

    `table` takes the place of the parametrization that the config names.

    Rotary tables are fp32 constants of the model in either; what is computed with them is in that dtype.
    """
    torch.set_num_threads(1)
    import_plugins(config.plugins)
    objective = objective_of(config)(config)
    model = build_model(blueprint(config, table), config.train.seed)
    weights = {shard.param.name: hash_tensor(shard.values) for shard in model.shards()}
    model.to(getattr(torch, dtype_name))
    optimizer = _optimizer(model, config.optimizer)
    losses, grad_norms = [], []
    for step in range(num_steps):
        tokens_BL, targets_BL, positions_BL = objective.tensors(make_samples(config, step))
        batches = [(tokens_BL, targets_BL)] if positions_BL is None else _documents(tokens_BL, targets_BL, positions_BL)
        num_tokens = int((targets_BL != IGNORE).sum())
        # The losses of layers are divided by the same number as the loss of tokens.
        outputs = [(model(x, loss_scale=1 / num_tokens), y) for x, y in batches]
        losses_of_batches = [objective.token_losses(logits, y, TensorParallel()).sum() for logits, y in outputs]
        loss = torch.stack(losses_of_batches).sum() / num_tokens
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip_norm or float("inf"))
        optimizer.step()
        losses.append(loss.item())
        grad_norms.append(norm.item())
    return Curve(tuple(losses), tuple(grad_norms), weights)


def _documents(tokens_BL: Tensor, targets_BL: Tensor, positions_BL: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens and targets of the documents, taken out of their samples; those of one length are a batch."""
    starts = [place for place, position in enumerate(positions_BL.flatten().tolist()) if position == 0]
    by_length: dict[int, list[slice]] = {}
    for start, end in pairwise([*starts, tokens_BL.numel()]):
        by_length.setdefault(end - start, []).append(slice(start, end))
    for documents in by_length.values():
        tokens, targets = (
            torch.stack([x.flatten()[document] for document in documents]) for x in (tokens_BL, targets_BL)
        )
        yield tokens, targets


def _optimizer(model: Stage, config: OptimizerConfig) -> torch.optim.Optimizer:
    """A group for each tensor: parameters that share one have the same factors."""
    groups = {
        shard.tensor: {
            "params": [shard.tensor],
            "lr": config.lr * shard.param.scale.lr,
            "eps": config.eps * shard.param.scale.eps,
            "weight_decay": config.weight_decay * shard.param.scale.weight_decay * (shard.tensor.dim() == 2),
        }
        for shard in model.shards()
    }
    return entry_of(config).build(list(groups.values()), config)
