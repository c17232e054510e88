"""The measurements of a coordinate check: size of a model's activations, and how far they have moved, step by step.

Gains, biases and the head are measured too: their entries should move by the same amount at every size. What they do to
activations is small beside what matrices do, or hidden by a random head.

The same made-up batch is used at every step, so that only the model moves. Every rank adds up what it has of each
module's output. Sums over all ranks then give the means over the global batch, under any layout: if several ranks hold
the full output, each element is counted equally often.

Legend: B batch, L sequence.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from foretrain.configs.schema import Config
from foretrain.data_pipeline.stream.batch import Batch
from foretrain.parallel.groups import Groups, destroy_groups, init_groups
from foretrain.parallel.layout import Layout
from foretrain.registry import import_plugins
from foretrain.trainer.build import build_engine
from foretrain.trainer.model.gpt import Stage
from foretrain.trainer.model.shard import HoldsParams
from foretrain.trainer.model.spec import Param
from foretrain.trainer.objectives.base import objective_of

TIMEOUT_S = 120.0
"""A collective that waits longer is a deadlock: a step takes a fraction of a second."""


@dataclass(frozen=True)
class Coordinates:
    """Statistics of each module's output, and of some parameters, after t = 0 .. num_steps updates."""

    size: dict[str, list[float]]
    """Mean |x_t|."""
    change: dict[str, list[float]]
    """Root mean square of x_t - x_0."""
    losses: list[float]
    grad_norms: list[float]


def measure(configs: Sequence[Config], layout: Layout, num_steps: int) -> list[Coordinates]:
    """Be one rank of `layout`, and train each config for num_steps + 1 (two or more) steps at its peak learning rate.

    Modules are "embed", the matrices of blocks, such as "blocks.0.attn.q", "blocks.0" (the residual stream after the
    block), "final_norm" and "logits"; parameters have the table's names. Needs the launcher's environment; every rank
    returns the same.
    """
    torch.set_num_threads(1)
    import_plugins(configs[0].plugins)
    groups = init_groups(layout, configs[0].train.device, TIMEOUT_S)
    found = [measure_in(config, groups, num_steps) for config in configs]
    destroy_groups()
    return found


def measure_in(config: Config, groups: Groups, num_steps: int) -> Coordinates:
    """The measurements of one config, in process groups that have started. Nothing is compiled: modules have hooks."""
    config = replace(config, train=replace(config.train, compile=False))
    engine, state = build_engine(config, groups, shows_logits=True)
    watched = [shard for shard in state.shards if _is_watched(shard.param)]
    matrices = {shard.param.name for shard in state.shards if shard.param.is_matrix}
    engine.set_lr(1.0)
    inputs_BL, targets_BL, _ = objective_of(config)(config).tensors(
        _batch(config, groups.share.samples(config.train.global_batch_size))
    )
    stages = [stage for stage in engine.stages if isinstance(stage, Stage)]
    sums = _Sums(groups.layout.num_microbatches(config.train))
    results = []
    for step in range(num_steps + 1):
        take = sums.taker(step)
        for shard, values in state.items("weight", watched):
            take(shard.param.name, values)
        with _watched(stages, matrices, take):
            results.append(engine.train_step(inputs_BL, targets_BL))
    size, change = sums.means(num_steps + 1, groups)
    return Coordinates(size, change, [result.loss for result in results], [result.grad_norm for result in results])


def _batch(config: Config, share: slice) -> Batch:
    """The samples `share` of a batch from which the head, attention and the layers between can learn.

    Some tokens are frequent, and half of the tokens follow from the one before.
    """
    model = config.model
    assert model.vocab_size is not None
    generator = torch.Generator().manual_seed(1000 + config.data.seed)
    size = config.train.global_batch_size, model.seq_len + 1
    drawn_BL = (model.vocab_size * torch.rand(size, generator=generator) ** 3).long()
    follows_BL = torch.rand(size, generator=generator) < 0.5
    stream = [drawn_BL[:, 0]]
    for place in range(1, size[1]):
        next_B = (stream[-1] * 7 + 3) % model.vocab_size
        stream.append(torch.where(follows_BL[:, place], next_B, drawn_BL[:, place]))
    rows_BC = torch.stack(stream, dim=1)[share].numpy()
    return Batch(rows_BC[:, :-1], rows_BC[:, 1:], samples_B=np.arange(size[0])[share])


class _Sums:
    """Sums over this rank's part of each output, in float64: of |x|, of (x - x_0)^2, and their number."""

    def __init__(self, num_microbatches: int) -> None:
        self._num_microbatches = num_microbatches
        self._at_start: dict[str, list[Tensor]] = {}
        self._sums: dict[tuple[str, int], Tensor] = {}

    def taker(self, step: int) -> Callable[[str, Tensor], None]:
        """A function that takes the name and the output of a module, for each micro-batch of one step in order."""
        if step == 0:
            return lambda name, x: self._at_start.setdefault(name, []).append(x.detach().float().clone())
        if step == 1:
            self._take_start()
        seen: Counter[str] = Counter()

        def take(name: str, x: Tensor) -> None:
            x_0 = self._at_start[name][seen[name]]
            seen[name] += 1
            self._add(name, step, x.detach().float(), x_0)

        return take

    def _take_start(self) -> None:
        for name, outputs in self._at_start.items():
            # Before the first micro-batch a pipeline runs made-up tensors through the stages, to learn their shapes.
            self._at_start[name] = outputs[-self._num_microbatches :]
            for x_0 in self._at_start[name]:
                self._add(name, 0, x_0, x_0)

    def _add(self, name: str, step: int, x: Tensor, x_0: Tensor) -> None:
        terms = [x.abs().sum(dtype=torch.float64), (x - x_0).square().sum(dtype=torch.float64)]
        sums = torch.stack([*terms, torch.full_like(terms[0], x.numel())]).cpu()
        self._sums[name, step] = self._sums[name, step] + sums if (name, step) in self._sums else sums

    def means(self, num_steps: int, groups: Groups) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        """Mean |x| and RMS(x - x_0) over all ranks by module; every rank returns the same."""
        names = sorted({name for name, _ in self._sums})
        everyones: list[list[str]] = [[]] * groups.layout.world_size
        dist.all_gather_object(everyones, names, group=groups.cpu)
        names = sorted(set().union(*everyones))
        nothing = torch.zeros(3, dtype=torch.float64)
        sums = torch.stack([self._sums.get((name, step), nothing) for name in names for step in range(num_steps)])
        sums = sums.to(groups.device)
        dist.all_reduce(sums)
        size, squares, count = sums.unflatten(0, (len(names), num_steps)).cpu().unbind(-1)
        sizes, changes = (size / count).tolist(), (squares / count).sqrt().tolist()
        return dict(zip(names, sizes, strict=True)), dict(zip(names, changes, strict=True))


def _is_watched(param: Param) -> bool:
    return param.role in ("gain", "bias", "output") and param.has_gradient


@contextmanager
def _watched(stages: Sequence[Stage], matrices: Set[str], take: Callable[[str, Tensor], None]) -> Iterator[None]:
    """In this context, `take` gets what each module of the stages returns."""
    modules = [found for stage in stages for found in _modules(stage, matrices)]
    hooks = [module.register_forward_hook(_hook(names, take)) for module, names in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _hook(names: Sequence[str], take: Callable[[str, Tensor], None]) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: object, outputs: Tensor | tuple[Tensor, ...]) -> None:
        parts = (outputs,) if isinstance(outputs, Tensor) else outputs
        for name, part in zip(names, parts, strict=True):
            take(name, part[..., : module.num_valid_rows] if isinstance(module, Stage) else part)

    return hook


def _modules(stage: Stage, matrices: Set[str]) -> Iterator[tuple[nn.Module, list[str]]]:
    """Each module that is watched, with the names of what it returns: in a block, one output for each of its matrices.

    The names are those of the parameter table without `.weight`.
    """
    if stage.is_first:
        assert stage.embed is not None
        yield stage.embed, ["embed"]
    for number, block in stage.blocks.items():
        for name, module in block.named_modules(prefix=f"blocks.{number}"):
            held = module.held(name) if isinstance(module, HoldsParams) else ()
            if outputs := [param.removesuffix(".weight") for param, _, _ in held if param in matrices]:
                yield module, outputs
        yield block, [f"blocks.{number}"]
    if stage.is_last:
        assert stage.final_norm is not None
        yield stage.final_norm, ["final_norm"]
        yield stage, ["logits"]
