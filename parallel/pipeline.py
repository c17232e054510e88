"""Pipeline stages and schedules, by torch.distributed.pipelining."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import schedules

from foretrain.parallel.exchanges import Exchanges
from foretrain.parallel.groups import Groups
from foretrain.parallel.noted_stage import NotedStage

SCHEDULES = {
    "1f1b": schedules.Schedule1F1B,
    "interleaved_1f1b": schedules.ScheduleInterleaved1F1B,
    "interleaved_zb": schedules.ScheduleInterleavedZeroBubble,
    "zbv": schedules.ScheduleZBVZeroBubble,
}


class Pipeline:
    """Runs this rank's stages by a schedule.

    `stages` are modules in the order of `layout.stages_of`. `loss_fn(output, target, scale)` returns a scalar whose
    gradients are used as they are: the caller's `scale` divides by the number of microbatches. In an evaluation, the
    scale is None, and any tensor may be returned. `on_weight_gradients` is called with a stage's parameters each time
    that a schedule has computed weight gradients on their own. What the stages exchange with other ranks is noted in
    `exchanges`.
    """

    def __init__(
        self,
        groups: Groups,
        stages: Sequence[nn.Module],
        num_microbatches: int,
        loss_fn: Callable[..., Tensor],
        on_weight_gradients: Callable[[Iterable[nn.Parameter]], None],
        exchanges: Exchanges,
    ) -> None:
        layout = groups.layout
        indices = layout.stages_of(groups.at.pp)
        self.holds_first = 0 in indices
        self.holds_last = layout.num_stages - 1 in indices
        parts = [
            _Stage(module, index, layout.num_stages, groups.device, group=groups.pp).calling(
                on_weight_gradients, exchanges
            )
            for module, index in zip(stages, indices, strict=True)
        ]
        schedule_class = SCHEDULES[layout.schedule]
        multi = issubclass(schedule_class, schedules.PipelineScheduleMulti)
        self._schedule = schedule_class(
            parts if multi else parts[0],
            num_microbatches,
            loss_fn=loss_fn,
            scale_grads=False,
        )

    def step(self, inputs: Tensor, targets: Tensor, for_stages: dict[str, Any], scale: float) -> list[Tensor]:
        """Forward and backward of a rank's batch; returns the loss of each microbatch if this rank has the last stage.

        Every stage is called with `for_stages` too. Tensors are split into microbatches along dimension 0.
        """
        losses: list[Tensor] = []
        self._schedule.step(*self._arguments(inputs), **self._keywords(targets, losses, scale=scale), **for_stages)
        return losses

    @torch.no_grad()
    def evaluate(self, inputs: Tensor, targets: Tensor, for_stages: dict[str, Any], **for_loss: Any) -> list[Tensor]:
        """The same as `step` without backward, with None as `scale`; `loss_fn` is called with `for_loss` too."""
        found: list[Tensor] = []
        keywords = self._keywords(targets, found, scale=None, **for_loss)
        self._schedule.eval(*self._arguments(inputs), **keywords, **for_stages)
        return found

    def _arguments(self, inputs: Tensor) -> tuple[Tensor, ...]:
        return (inputs,) if self.holds_first else ()

    def _keywords(self, targets: Tensor, losses: list[Tensor], **loss_kwargs: Any) -> dict[str, Any]:
        for_loss = {"target": targets, "losses": losses} if self.holds_last else {}
        return {**for_loss, "loss_kwargs": loss_kwargs, "return_outputs": False}


class _Stage(NotedStage):
    """A stage with a callback after a zero-bubble schedule has computed weight gradients, and with evaluation.

    At the tip of a V, two stages of one rank pass gradients to each other. torch 2.13 asks for them in evaluation too.
    """

    def calling(self, on_weight_gradients: Callable[[Iterable[nn.Parameter]], None], exchanges: Exchanges) -> Self:
        self._on_weight_gradients, self.exchanges = on_weight_gradients, exchanges
        return self

    def backward_weight_one_chunk(self, *args: Any, **kwargs: Any) -> None:
        super().backward_weight_one_chunk(*args, **kwargs)
        self._on_weight_gradients(self.submod.parameters())

    def get_local_bwd_output(self, mb_index: int) -> Any:
        return super().get_local_bwd_output(mb_index) if self.has_backward else ()

    def set_local_bwd_input(self, next_stage_bwd_outputs: Any, mb_index: int) -> None:
        if self.has_backward:
            super().set_local_bwd_input(next_stage_bwd_outputs, mb_index)
