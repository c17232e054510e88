"""Faults of composed parallelism, each planted in the processes of a trial, which `foretrain verify` must find.

Each is a probe that ranks run by its name, as `probe` of trainer/verification/probe.py, after it has broken something.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from foretrain.configs.schema import Config
from foretrain.parallel import context, engine, pipeline
from foretrain.parallel.groups import Groups
from foretrain.parallel.layout import Layout
from foretrain.parallel.loss import IGNORE
from foretrain.parallel.tensor import TensorParallel
from foretrain.parallel.zero import bucketed, grad_norm
from foretrain.trainer.model import init
from foretrain.trainer.model.spec import Param
from foretrain.trainer.verification.curve import Curve
from foretrain.trainer.verification.probe import probe


def loss_over_the_tokens_of_a_microbatch(config: Config, layout: Layout, num_steps: int) -> Curve:
    """A mean over microbatches of the mean over each one's tokens."""

    def scaled_loss(self: engine.Engine, logits: torch.Tensor, targets: torch.Tensor, scale: float) -> torch.Tensor:
        count = max(1, int((targets != IGNORE).sum()))
        return self._token_losses(logits, targets).sum() / count / layout.num_microbatches(config.train)

    engine.Engine._loss = scaled_loss  # type: ignore[method-assign,assignment]
    return probe(config, layout, num_steps)


def loss_over_the_tokens_of_a_rank(config: Config, layout: Layout, num_steps: int) -> Curve:
    """A mean over data-parallel ranks of the mean over each one's tokens."""

    def count(self: engine.Engine, targets: torch.Tensor) -> int:
        return int((targets != IGNORE).sum()) * self.groups.layout.dp

    engine.Engine._count_tokens = count  # type: ignore[method-assign,assignment]
    return probe(config, layout, num_steps)


def replicated_gradients_not_summed(config: Config, layout: Layout, num_steps: int) -> Curve:
    """Under sequence parallelism each rank keeps the gradient of its own part of the sequence."""
    TensorParallel.allreduce_grad_if_sp = lambda self, parameter: parameter  # type: ignore[method-assign]
    return probe(config, layout, num_steps)


def gradients_divided_by_microbatches(config: Config, layout: Layout, num_steps: int) -> Curve:
    """The number of microbatches is divided by once too often."""
    backward = bucketed.BucketedZero.backward
    count = layout.num_microbatches(config.train)
    bucketed.BucketedZero.backward = lambda self, loss: backward(self, loss / count)  # type: ignore[method-assign]
    return probe(config, layout, num_steps)


def tied_gradients_not_summed(config: Config, layout: Layout, num_steps: int) -> Curve:
    """The embedding and the tied head, on two stages, each keep their own gradient."""
    build = bucketed.BucketedZero.build

    def forget_tied(self: bucketed.BucketedZero, *args: Any) -> None:
        self.tied = ()
        build(self, *args)

    bucketed.BucketedZero.build = forget_tied  # type: ignore[assignment,method-assign]
    return probe(config, layout, num_steps)


def tied_norm_counted_twice(config: Config, layout: Layout, num_steps: int) -> Curve:
    """The gradient norm counts both copies of a tied embedding."""
    is_counted = grad_norm.is_counted

    def forget_mark(parameter: nn.Parameter, groups: Groups) -> bool:
        parameter.ds_pipe_replicated = False  # type: ignore[attr-defined]
        return is_counted(parameter, groups)

    grad_norm.is_counted = forget_mark
    return probe(config, layout, num_steps)


def virtual_stages_start_alike(config: Config, layout: Layout, num_steps: int) -> Curve:
    """Each stage draws its blocks as if they were the first."""
    stages = [layout.layers_of(stage, config.model.num_layers) for stage in range(layout.num_stages)]
    first_of = {number: layers[0] for layers in stages for number in layers}

    def fill(out: torch.Tensor, param: Param, *args: object) -> None:
        _, _, rest = param.name.partition(".")
        number, _, name = rest.partition(".")
        alike = f"blocks.{int(number) - first_of[int(number)]}.{name}" if name else param.name
        real(out, replace(param, name=alike), *args)  # type: ignore[arg-type]

    real, init.fill = init.fill, fill  # type: ignore[assignment]
    return probe(config, layout, num_steps)


def shards_start_alike(config: Config, layout: Layout, num_steps: int) -> Curve:
    """Each tensor-parallel rank draws its rows as if they were the first."""

    def fill(out: torch.Tensor, param: Param, seed: int, rows: slice, columns: slice | None = None) -> None:
        real(out, param, seed, slice(0, rows.stop - rows.start), columns)

    real, init.fill = init.fill, fill
    return probe(config, layout, num_steps)


def clipped_by_a_local_norm(config: Config, layout: Layout, num_steps: int) -> Curve:
    """The norm that is reported is right, and each rank scales by the norm of what it holds itself."""

    def clip(gradients: Any, norm: float, max_norm: float) -> None:
        owned = list(gradients)
        real(owned, torch.stack([gradient.norm() for gradient in owned]).norm().item(), max_norm)

    real, grad_norm.clip = grad_norm.clip, clip
    return probe(config, layout, num_steps)


def targets_of_other_microbatches(config: Config, layout: Layout, num_steps: int) -> Curve:
    """The pipeline's last stage meets the targets one microbatch late."""
    step = pipeline.Pipeline.step

    def late(self: pipeline.Pipeline, inputs: torch.Tensor, targets: torch.Tensor, *rest: Any) -> list[torch.Tensor]:
        return step(self, inputs, targets.roll(config.train.micro_batch_size, dims=0), *rest)

    pipeline.Pipeline.step = late  # type: ignore[method-assign,assignment]
    return probe(config, layout, num_steps)


def learned_positions_from_the_start(config: Config, layout: Layout, num_steps: int) -> Curve:
    """Under sequence parallelism every rank takes itself for the first part of the sequence."""
    TensorParallel.sequence_slice = lambda self, local_len: slice(0, local_len // self.size)  # type: ignore[method-assign]
    return probe(config, layout, num_steps)


def attention_to_own_positions(config: Config, layout: Layout, num_steps: int) -> Curve:
    """A context-parallel rank exchanges nothing, and attends to its own part of the sequence."""
    build = context.ContextParallel.__init__

    def forget_others(self: context.ContextParallel, *args: object) -> None:
        build(self, *args)  # type: ignore[arg-type]
        self._exchange = None

    context.ContextParallel.__init__ = forget_others  # type: ignore[method-assign,assignment]
    return probe(config, layout, num_steps)


def documents_seen_as_one(config: Config, layout: Layout, num_steps: int) -> Curve:
    """Attention crosses from one document of a sample to the next, though positions restart."""
    attention = context.ContextParallel.attention

    def across(self: context.ContextParallel, q: Any, k: Any, v: Any, is_causal: bool, _: object) -> torch.Tensor:
        return attention(self, q, k, v, is_causal)

    context.ContextParallel.attention = across  # type: ignore[method-assign,assignment]
    return probe(config, layout, num_steps)


def one_rank_fails(config: Config, layout: Layout, num_steps: int) -> Curve:
    """No curve at all."""
    raise ArithmeticError("a planted failure")


def loss_that_is_not_a_number(config: Config, layout: Layout, num_steps: int) -> Curve:
    """A curve whose last loss is NaN, as no comparison of numbers refuses by itself."""
    curve = probe(config, layout, num_steps)
    return replace(curve, losses=(*curve.losses[:-1], float("nan")))
