"""The judge of one curve: the whole model in one process and one batch, with nothing but torch.

It shares the model's modules and initial weights with what it judges, and no more: no megatron-core, no DeepSpeed, no
pipeline, no microbatches, and a loss, a clipping, a choice of what decays and an optimizer step of its own. Documents
that share a sample are run one by one, each as a sample that begins with it.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.schema import Config
from foretrain.parallel.layout import Layout
from foretrain.parallel.tensor import IGNORE, TensorParallel
from foretrain.registry import import_plugins
from foretrain.trainer.curve import Curve
from foretrain.trainer.model.gpt import Stage, build_stages
from foretrain.trainer.mup.parametrize import blueprint
from foretrain.trainer.mup.table import Parametrization
from foretrain.trainer.optimizers.entry import entry_of
from foretrain.trainer.probe import hash_tensor, is_packed, make_batch, make_positions


def reference(config: Config, dtype_name: str, num_steps: int, table: Parametrization | None = None) -> Curve:
    """The curve of `num_steps` steps at the peak learning rate, computed in float32 or float64 on one thread.

    `table` takes the place of the parametrization that the config names.

    Rotary tables are fp32 constants of the model in either; what is computed with them is in that dtype.
    """
    torch.set_num_threads(1)
    import_plugins(config.plugins)
    train, vocab_size, seq_len = config.train, config.model.vocab_size, config.model.seq_len
    assert vocab_size is not None
    plan = blueprint(config, table)
    (model,) = build_stages(plan, Layout(), 0, TensorParallel(), train.seed)
    weights = {shard.param.name: hash_tensor(shard.values) for shard in model.shards()}
    model.to(getattr(torch, dtype_name))
    optimizer = _optimizer(model, config.optimizer)
    losses, grad_norms = [], []
    for step in range(num_steps):
        batch = make_batch(step, vocab_size, train.global_batch_size, seq_len)
        if is_packed(config):
            loss = _loss_of_documents(model, *batch, make_positions(step, train.global_batch_size, seq_len))
        else:
            loss = _loss(model, *batch)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip_norm or float("inf"))
        optimizer.step()
        losses.append(loss.item())
        grad_norms.append(norm.item())
    return Curve(tuple(losses), tuple(grad_norms), weights)


def _loss(model: Stage, tokens_BL: Tensor, targets_BL: Tensor) -> Tensor:
    # The losses of layers are divided by the same number as the loss of tokens.
    logits_BLV = model(tokens_BL, loss_scale=1 / int((targets_BL != IGNORE).sum())).transpose(0, 1)
    return F.cross_entropy(logits_BLV.flatten(0, 1), targets_BL.flatten(), ignore_index=IGNORE)


def _loss_of_documents(model: Stage, tokens_BL: Tensor, targets_BL: Tensor, positions_BL: Tensor) -> Tensor:
    """As `_loss`, of documents taken out of their samples; those of one length are a batch."""
    tokens, targets = tokens_BL.flatten().tolist(), targets_BL.flatten().tolist()
    starts = [place for place, position in enumerate(positions_BL.flatten().tolist()) if position == 0]
    by_length: dict[int, list[slice]] = {}
    for start, end in pairwise([*starts, len(tokens)]):
        by_length.setdefault(end - start, []).append(slice(start, end))
    total, num_tokens = torch.zeros((), dtype=next(model.parameters()).dtype), int((targets_BL != IGNORE).sum())
    for documents in by_length.values():
        batch = torch.tensor([tokens[document] for document in documents])
        logits_BLV = model(batch, loss_scale=1 / num_tokens).transpose(0, 1)
        targets_N = torch.tensor([targets[document] for document in documents]).flatten()
        total = total + F.cross_entropy(logits_BLV.flatten(0, 1), targets_N, ignore_index=IGNORE, reduction="sum")
    return total / num_tokens


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
