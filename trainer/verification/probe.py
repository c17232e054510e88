"""A few steps of a config on made-up batches, as one rank of a layout, to compare with those of reference.py."""

from hashlib import sha256

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from foretrain.configs.schema import Config
from foretrain.data_pipeline.stream.batch import Batch
from foretrain.parallel.groups import destroy_groups, init_groups
from foretrain.parallel.layout import Layout
from foretrain.parallel.loss import IGNORE
from foretrain.registry import import_plugins
from foretrain.trainer.build import build_engine
from foretrain.trainer.objectives.base import objective_of
from foretrain.trainer.state import ModelState
from foretrain.trainer.verification.curve import Curve

TIMEOUT_S = 120.0
"""A collective that waits longer than this is a deadlock: a step takes a fraction of a second."""


def make_batch(step: int, vocab_size: int, num_samples: int, seq_len: int) -> tuple[Tensor, Tensor]:
    """Tokens and targets (B, L) of a global batch, random but to be learnt: a target is a function of its token.

    The samples carry from L down to 0 valid targets, so that no two ranks nor microbatches carry equally many; which
    sample carries how many turns with the step.
    """
    generator = torch.Generator().manual_seed(1000 + step)
    tokens_BL = torch.randint(vocab_size, (num_samples, seq_len), generator=generator)
    targets_BL = (tokens_BL * 7 + 3) % vocab_size
    for sample in range(num_samples):
        place = (sample + 5 * step) % num_samples
        targets_BL[sample, : seq_len * place // max(1, num_samples - 1)] = IGNORE
    return tokens_BL, targets_BL


def make_positions(step: int, num_samples: int, seq_len: int) -> Tensor:
    """Positions (B, L) in made-up documents: samples of one document, of few, and of many short ones."""
    generator = torch.Generator().manual_seed(2000 + step)
    begins_BL = torch.zeros(num_samples, seq_len, dtype=torch.bool)
    for sample in range(num_samples):
        num_begins = (sample + step) % 3 * seq_len // 6
        begins_BL[sample, torch.randperm(seq_len, generator=generator)[:num_begins]] = True
    places_L = torch.arange(seq_len)
    return places_L - torch.where(begins_BL, places_L, 0).cummax(dim=1).values


def make_samples(config: Config, step: int, share: slice = slice(None)) -> Batch:
    """The samples `share` of step `step`'s made-up global batch, as the data pipeline would give them."""
    model, size = config.model, config.train.global_batch_size
    assert model.vocab_size is not None
    tokens_BL, targets_BL = (x[share].numpy() for x in make_batch(step, model.vocab_size, size, model.seq_len))
    positions_BL = make_positions(step, size, model.seq_len)[share].numpy() if is_packed(config) else None
    return Batch(tokens_BL, targets_BL, positions_BL, samples_B=step * size + np.arange(size)[share])


def probe(config: Config, layout: Layout, num_steps: int) -> Curve:
    """Be one rank of `layout` for `num_steps` steps at the peak learning rate; needs the launcher's environment."""
    torch.set_num_threads(1)
    import_plugins(config.plugins)
    groups = init_groups(layout, config.train.device, TIMEOUT_S)
    engine, state = build_engine(config, groups)
    weights = hash_weights(state)
    objective = objective_of(config)(config)
    share = groups.share.samples(config.train.global_batch_size)
    engine.set_lr(1.0)
    results = [engine.train_step(*objective.tensors(make_samples(config, step, share))) for step in range(num_steps)]
    destroy_groups()
    return Curve(tuple(r.loss for r in results), tuple(r.grad_norm for r in results), weights)


def is_packed(config: Config) -> bool:
    """Whether samples hold documents that attention keeps apart."""
    return config.data.packing != "windows"


def hash_weights(state: ModelState) -> dict[str, str]:
    """The sha256 of every full parameter of the model, by name. Every rank calls it, and gets the same."""
    mine, groups = [], state.groups
    for shard, values in state.items():
        part = values.to("cpu", copy=True)
        if shard.tp_dim is not None:
            parts: list[Tensor] = [part] * groups.layout.tp
            dist.all_gather_object(parts, part, group=groups.tp)
            part = torch.cat(parts, dim=shard.tp_dim)
        mine.append((shard.param.name, hash_tensor(part)))
    everyones: list[list[tuple[str, str]]] = [[]] * groups.layout.world_size
    dist.all_gather_object(everyones, mine, group=groups.cpu)
    copies: dict[str, set[str]] = {}
    for name, digest in (pair for pairs in everyones for pair in pairs):
        copies.setdefault(name, set()).add(digest)
    return {name: " ".join(sorted(digests)) for name, digests in copies.items()}


def hash_tensor(tensor: Tensor) -> str:
    """The sha256, in hex, of the values as fp32."""
    return sha256(tensor.detach().float().contiguous().numpy().tobytes()).hexdigest()
