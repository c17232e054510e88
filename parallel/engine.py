"""The engine: one training step on every rank, joining megatron-core's layers, torch's pipelines and ZeRO.

The loss of a step is the mean over the valid tokens of the global batch: each rank sums the losses of its tokens and
divides by the global number of tokens, for any number of ranks and micro-batches.

On a GPU, the host waits for it once in a step, before the update, for the loss and the gradient norm that decide about
the update. It then continues with the next step while the update runs.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from foretrain.configs.schema import Config
from foretrain.parallel.exchanges import Exchanges
from foretrain.parallel.groups import Groups
from foretrain.parallel.loss import IGNORE
from foretrain.parallel.phases import PhaseClock
from foretrain.parallel.pipeline import Pipeline
from foretrain.parallel.placement import Fill
from foretrain.parallel.transfer import to_device
from foretrain.parallel.zero.build import zero_of


@dataclass(frozen=True)
class StepResult:
    """Loss and gradient norm of one optimizer step, the same on every rank."""

    loss: float
    """Mean over valid tokens of the global batch, nats, before the update."""
    grad_norm: float
    """Global L2 norm before clipping."""
    num_tokens: int
    """Valid tokens of the global batch."""
    is_applied: bool = True
    """Whether the parameters were updated. If not, the gradients were dropped."""
    phase_s: Mapping[str, float] = field(default_factory=dict, compare=False)
    """Seconds of this rank's device in "forward_backward", in "reduce" (what is reduced after it, and the norm) and,
    after the first step, in the "update" of the step before."""


Accepts = Callable[[float, float], bool]
"""Decides by the loss and the gradient norm of a step, which are the same on every rank, whether it updates."""


Measure = Callable[[Tensor, Tensor], Tensor]
"""From logits (L, B, V / tp) of this rank and targets (B, L) to a value of each position (L, B), which is 0 where the
target is IGNORE, and the same on all tensor-parallel ranks. It may overwrite the logits if it is the last one."""


def always(loss: float, grad_norm: float) -> bool:
    """Accept every update."""
    return True


class Engine:
    """Trains this rank's stages of a model.

    `stages` are modules from tokens or activations to activations or logits. They also take `positions` if a batch has
    them. If their `takes_loss_scale` is true, they also take `loss_scale`: their backward pass adds the gradient of
    losses of their own, sums over the rank's tokens, times that scale. `token_losses(logits, targets)` gives the loss
    of each position (0 where the target is IGNORE). If the last stage's `takes_targets` is true, it returns these
    losses itself when it is called with `targets`.

    The stages' parameters need no memory: the engine places what this rank keeps of them, and `fill` gives the initial
    values. `optimizer` holds the parameters, and keeps the fp32 tensors named `moments` for each of them. `tied` are
    the parameters that another stage holds too, and whose gradients are summed.
    """

    def __init__(
        self,
        groups: Groups,
        stages: Sequence[nn.Module],
        token_losses: Callable[[Tensor, Tensor], Tensor],
        optimizer: torch.optim.Optimizer,
        moments: Sequence[str],
        config: Config,
        fill: Fill,
        tied: Sequence[nn.Parameter] = (),
    ) -> None:
        self.groups, self._stages = groups, stages
        self._token_losses = token_losses
        self._micro_batch_size = config.train.micro_batch_size
        tied = tied if groups.embedding is not None else ()
        for parameter in tied:  # DeepSpeed's mark for what its gradient norm counts on another pipeline rank
            parameter.ds_pipe_replicated = 0 not in groups.layout.stages_of(groups.at.pp)  # type: ignore[attr-defined]
        self.zero = zero_of(groups.layout)(groups, stages, optimizer, moments, config, fill, tied)
        for group in self.zero.optimizer.param_groups:
            if "peak_lr" not in group:
                raise ValueError(
                    f"a parameter group of {type(optimizer).__name__} has no peak_lr, which the schedule multiplies"
                )
        self.exchanges = Exchanges(host_waits=groups.device.type != "cuda")
        """What this rank exchanges with single other ranks."""
        self._pipeline = None
        if groups.layout.pp > 1:
            num_microbatches = groups.layout.num_microbatches(config.train)
            self._pipeline = Pipeline(
                groups, stages, num_microbatches, self._loss, self.zero.accumulate_assigned, self.exchanges
            )
        self._takes_targets = any(getattr(stage, "takes_targets", False) for stage in stages)
        if self._takes_targets:
            self._token_losses = _as_they_are
        self._takes_loss_scale = any(getattr(stage, "takes_loss_scale", False) for stage in stages)
        self._holds_loss = self._pipeline is None or self._pipeline.holds_last
        self._update_clock: PhaseClock | None = None

    @property
    def stages(self) -> Sequence[nn.Module]:
        """This rank's stages, with the weights of the last update.

        Take them here again after each step: their forward passes wait for weights that are still on their way from
        other replicas, and nothing else does.
        """
        self.zero.await_weights()
        return self._stages

    def train_step(
        self,
        tokens_BL: Tensor,
        targets_BL: Tensor,
        positions_BL: Tensor | None = None,
        *,
        accepts: Accepts = always,
        is_full: bool = False,
    ) -> StepResult:
        """One optimizer step on the samples of this dp rank; all ranks of its tp x cp x pp pass the same.

        `positions_BL`, on the CPU, are the tokens' positions in their documents: a 0 starts a document, and attention
        stays inside documents. None: a sample is one document. The parameters are updated if loss and gradient norm are
        finite and every rank's `accepts` allows it: it must decide alike on all. `is_full`: every target of the global
        batch carries a loss, so that ranks need not count together how many do. Raises ValueError if no target carries
        a loss, and with `is_full` if one of this rank's does not.
        """
        clock = PhaseClock(self.groups.device)
        count = self._count_all if is_full else self._count_tokens
        losses, num_tokens = self._forward_backward(self.zero.start_step, count, tokens_BL, targets_BL, positions_BL)
        clock.end("forward_backward")
        self.zero.reduce_gradients()
        numbers = self._numbers(losses)
        clock.end("reduce")
        loss, grad_norm = self._read(numbers)
        phase_s = clock.seconds() | (self._update_clock.seconds() if self._update_clock else {})
        is_applied = accepts(loss, grad_norm) and math.isfinite(loss) and math.isfinite(grad_norm)
        self._update_clock = PhaseClock(self.groups.device)
        if is_applied:
            self.zero.update(grad_norm)
        else:
            self.zero.skip_update()
        self._update_clock.end("update")
        return StepResult(loss, grad_norm, num_tokens, is_applied, phase_s)

    def try_step(self, tokens_BL: Tensor, targets_BL: Tensor, positions_BL: Tensor | None = None) -> None:
        """The forward and backward passes of `train_step`, of which nothing is reduced, updated or kept.

        Who observes the gradients (`zero.observe_gradients`) sees those of this rank.
        """
        self._forward_backward(self.zero.start_trial, self._count_tokens, tokens_BL, targets_BL, positions_BL)
        self.zero.end_trial()

    def eval_step(
        self, tokens_BL: Tensor, targets_BL: Tensor, positions_BL: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(sum of losses in nats, number of tokens) over the valid tokens of each sample of one global batch.

        Both have the shape (samples of all replicas,) and are in host memory, in float64 and int64, the same on every
        rank.
        """
        counts = self._among_all((self._own(targets_BL) != IGNORE).sum(dim=1).cpu())
        dist.all_reduce(counts, group=self.groups.cpu)
        losses = self.measure([self._token_losses], tokens_BL, targets_BL, positions_BL, needs_logits=False)[0]
        return losses, counts // (self.groups.layout.tp * self.groups.layout.pp)

    def measure(
        self,
        measures: Sequence[Measure],
        tokens_BL: Tensor,
        targets_BL: Tensor,
        positions_BL: Tensor | None = None,
        *,
        needs_logits: bool = True,
    ) -> Tensor:
        """The sum of each measure over the positions of each sample of one global batch, from one forward pass.

        Shape (measures, samples of all replicas), float64 in host memory, the same on every rank.
        Without `needs_logits`, measures get losses in the place of logits from a last stage that takes targets.
        """
        tokens_BL, targets_BL = (to_device(self._own(x), self.groups.device) for x in (tokens_BL, targets_BL))
        for_stages = self._for_stages(positions_BL, None if needs_logits else targets_BL)
        if self._pipeline is None:
            found = self._forward(tokens_BL, targets_BL, for_stages, measures)
        else:
            found = self._pipeline.evaluate(tokens_BL, targets_BL, for_stages, measures=measures)
        mine = torch.zeros(len(measures), len(targets_BL), dtype=torch.float64, device=self.groups.device)
        if self._holds_loss and self.groups.at.tp == 0:  # tensor-parallel ranks have the same values
            mine += torch.cat(found, dim=1)
        total = self._among_all(mine)
        dist.all_reduce(total)
        return total.cpu()

    def _among_all(self, values_B: Tensor) -> Tensor:
        """Values of this replica's samples, the last dim, in their places among those of all replicas, which are 0."""
        size = values_B.shape[-1] * self.groups.layout.dp
        values = values_B.new_zeros((*values_B.shape[:-1], size))
        values[..., self.groups.share.samples(size)] = values_B
        return values

    def _forward_backward(
        self,
        start: Callable[[], None],
        count: Callable[[Tensor], int],
        tokens_BL: Tensor,
        targets_BL: Tensor,
        positions_BL: Tensor | None,
    ) -> tuple[list[Tensor], int]:
        """The losses of the micro-batches, scaled, and the valid tokens of the global batch."""
        tokens_BL, targets_BL = self._own(tokens_BL), self._own(targets_BL)
        num_tokens = count(targets_BL)
        if num_tokens == 0:
            raise ValueError("no token of this global batch carries a loss: all targets of the objective are IGNORE")
        scale = self.zero.divisor / num_tokens
        tokens_BL, targets_BL = (to_device(each, self.groups.device) for each in (tokens_BL, targets_BL))
        start()
        for_stages = self._for_stages(positions_BL, targets_BL, scale)
        if self._pipeline is None:
            losses = self._accumulate(tokens_BL, targets_BL, for_stages, scale)
        else:
            losses = self._pipeline.step(tokens_BL, targets_BL, for_stages, scale)
        return losses, num_tokens

    def _own(self, batch_BL: Tensor) -> Tensor:
        """This rank's positions of its samples."""
        return batch_BL[:, self.groups.share.positions(batch_BL.shape[1])].contiguous()

    def set_lr(self, factor: float) -> None:
        """Multiply every group's own peak rate (`peak_lr`) by `factor`."""
        for group in self.zero.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor

    def _accumulate(
        self, tokens_BL: Tensor, targets_BL: Tensor, for_stages: dict[str, Any], scale: float
    ) -> list[Tensor]:
        """Losses of the micro-batches, without a pipeline: a forward and a backward pass of each."""
        losses = []
        for tokens, targets, keywords in self._microbatches(tokens_BL, targets_BL, for_stages):
            loss = self._loss(self.zero.module(tokens, **keywords), targets, scale)
            self.zero.backward(loss)
            losses.append(loss.detach())
        return losses

    @torch.no_grad()
    def _forward(
        self, tokens_BL: Tensor, targets_BL: Tensor, for_stages: dict[str, Any], measures: Sequence[Measure]
    ) -> list[Tensor]:
        """The measures of the samples of each micro-batch, without a pipeline."""
        module = self.zero.module
        module.eval()
        found = [
            self._loss(module(tokens, **kwargs), targets, None, measures)
            for tokens, targets, kwargs in self._microbatches(tokens_BL, targets_BL, for_stages)
        ]
        module.train()
        return found

    def _for_stages(
        self, positions_BL: Tensor | None, targets_BL: Tensor | None, loss_scale: float | None = None
    ) -> dict[str, Any]:
        """What every stage is called with, beside its input. Without targets, the last stage returns logits."""
        keywords: dict[str, Any] = {} if positions_BL is None else {"positions": positions_BL}
        if targets_BL is not None and self._takes_targets:
            keywords["targets"] = targets_BL
        if loss_scale is not None and self._takes_loss_scale:
            keywords["loss_scale"] = loss_scale
        return keywords

    def _microbatches(
        self, tokens_BL: Tensor, targets_BL: Tensor, for_stages: dict[str, Any]
    ) -> Iterator[tuple[Tensor, Tensor, dict[str, Any]]]:
        """Tokens, targets, and what the stages are called with; tensors are split along the samples."""
        for first in range(0, len(tokens_BL), self._micro_batch_size):
            rows = slice(first, first + self._micro_batch_size)
            keywords = {name: x[rows] if isinstance(x, Tensor) else x for name, x in for_stages.items()}
            yield tokens_BL[rows], targets_BL[rows], keywords

    def _loss(
        self, output: Tensor, targets_BL: Tensor, scale: float | None, measures: Sequence[Measure] = ()
    ) -> Tensor:
        """The sum of all losses times `scale`, a scalar; without `scale`, the sum of each measure over the positions of
        each sample (measures, B), in float64."""
        if scale is None:
            return torch.stack([measure(output, targets_BL).double().sum(dim=0) for measure in measures])
        return self._token_losses(output, targets_BL).sum() * scale

    def _count_tokens(self, targets_BL: Tensor) -> int:
        """Valid tokens of the global batch, counted in host memory before the batch is on the device."""
        count = (targets_BL != IGNORE).sum().cpu()
        # Not over the replicas' group: the weights that it still gathers would come first, before the forward pass.
        dist.all_reduce(count, group=self.groups.cpu)
        return int(count.item()) // (self.groups.layout.tp * self.groups.layout.pp)

    def _count_all(self, targets_BL: Tensor) -> int:
        """Valid tokens of a global batch of which every target carries a loss. This rank looks at its own targets."""
        num_ignored = int((targets_BL == IGNORE).sum())
        if num_ignored:
            raise ValueError(
                f"{num_ignored} targets of this rank carry no loss, and the step was called with is_full: leave it out"
            )
        return targets_BL.numel() * self.groups.replicas.size()

    def _numbers(self, losses: list[Tensor]) -> Tensor:
        """The scaled loss and the squared gradient norm of a step, on the device, with the same bits on every rank."""
        numbers = torch.stack([self._sum_of(losses), self.zero.squared_grad_norm()])
        if self.groups.layout.world_size > 1:
            dist.all_reduce(numbers)
        return numbers

    def _read(self, numbers: Tensor) -> tuple[float, float]:
        """Loss and gradient norm of a step, for which the host waits here."""
        loss, squared_norm = numbers.cpu().tolist()
        return loss / self.zero.divisor, math.sqrt(squared_norm)

    def _sum_of(self, losses: list[Tensor]) -> Tensor:
        """What this rank adds to the sum of losses over all micro-batches and ranks: a float64 scalar on the device."""
        if not self._holds_loss or self.groups.at.tp > 0:  # tensor-parallel ranks have the same losses
            return torch.zeros((), dtype=torch.float64, device=self.groups.device)
        return torch.stack([loss.detach().double() for loss in losses]).sum()


def _as_they_are(losses_LB: Tensor, targets_BL: Tensor) -> Tensor:
    """The losses that a last stage that takes targets has computed."""
    return losses_LB
