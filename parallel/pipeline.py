"""Pipeline stages and schedules, by torch.distributed.pipelining."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, schedules

from foretrain.parallel.exchanges import Exchanges, What
from foretrain.parallel.groups import Groups

SCHEDULES = {
    "1f1b": schedules.Schedule1F1B,
    "interleaved_1f1b": schedules.ScheduleInterleaved1F1B,
    "interleaved_zb": schedules.ScheduleInterleavedZeroBubble,
    "zbv": schedules.ScheduleZBVZeroBubble,
}


class Pipeline:
    """Runs this rank's stages by a schedule.

    `stages` are modules in the order of `layout.stages_of`. `loss_fn(output, target, scale)` returns a scalar whose
    gradients are used as they are: the caller's `scale` divides by the number of microbatches. `on_weight_gradients` is
    called with a stage's parameters each time that a schedule has computed weight gradients on their own.
    """

    def __init__(
        self,
        groups: Groups,
        stages: Sequence[nn.Module],
        num_microbatches: int,
        loss_fn: Callable[[Tensor, Tensor, float], Tensor],
        on_weight_gradients: Callable[[Iterable[nn.Parameter]], None],
    ) -> None:
        layout = groups.layout
        indices = layout.stages_of(groups.at.pp)
        self.holds_first = 0 in indices
        self.holds_last = layout.num_stages - 1 in indices
        self.exchanges = Exchanges()
        parts = [
            _Stage(module, index, layout.num_stages, groups.device, group=groups.pp).calling(
                on_weight_gradients, self.exchanges
            )
            for module, index in zip(stages, indices, strict=True)
        ]
        schedule_class = SCHEDULES[layout.schedule]
        multi = issubclass(schedule_class, schedules.PipelineScheduleMulti)
        self._schedule = schedule_class(
            parts if multi else parts[0],  # type: ignore[arg-type]
            num_microbatches,
            loss_fn=loss_fn,
            scale_grads=False,
        )

    def step(self, inputs: Tensor, targets: Tensor, for_stages: dict[str, Any], scale: float) -> list[Tensor]:
        """Forward and backward of a rank's batch; returns the loss of each microbatch if this rank has the last stage.

        Every stage is called with `for_stages` too. Tensors are split into microbatches along dimension 0.
        """
        losses: list[Tensor] = []
        self._schedule.step(*self._arguments(inputs), **self._keywords(targets, scale, losses), **for_stages)
        return losses

    @torch.no_grad()
    def evaluate(self, inputs: Tensor, targets: Tensor, for_stages: dict[str, Any], scale: float) -> list[Tensor]:
        """The same as `step` without backward."""
        losses: list[Tensor] = []
        self._schedule.eval(*self._arguments(inputs), **self._keywords(targets, scale, losses), **for_stages)
        return losses

    def _arguments(self, inputs: Tensor) -> tuple[Tensor, ...]:
        return (inputs,) if self.holds_first else ()

    def _keywords(self, targets: Tensor, scale: float, losses: list[Tensor]) -> dict[str, Any]:
        for_loss = {"target": targets, "losses": losses} if self.holds_last else {}
        return {**for_loss, "loss_kwargs": {"scale": scale}, "return_outputs": False}


class _Stage(PipelineStage):
    """A stage with a callback after a zero-bubble schedule has computed weight gradients, and with evaluation.

    At the tip of a V, two stages of one rank pass gradients to each other. torch 2.13 asks for them in evaluation too.
    It notes its exchanges with other ranks, since the flight recorder of gloo has collectives only.
    """

    def calling(self, on_weight_gradients: Callable[[Iterable[nn.Parameter]], None], exchanges: Exchanges) -> Self:
        self._on_weight_gradients, self._exchanges = on_weight_gradients, exchanges
        return self

    def get_fwd_recv_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        ops, here = super().get_fwd_recv_ops(fwd_chunk_id), self.stage_index
        return self._noted(ops, "activations", here - 1, here, fwd_chunk_id)

    def get_fwd_send_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        ops, here = super().get_fwd_send_ops(fwd_chunk_id), self.stage_index
        return self._noted(ops, "activations", here, here + 1, fwd_chunk_id)

    def get_bwd_recv_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        ops, here = super().get_bwd_recv_ops(bwd_chunk_id), self.stage_index
        return self._noted(ops, "gradients", here + 1, here, bwd_chunk_id)

    def get_bwd_send_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        ops, here = super().get_bwd_send_ops(bwd_chunk_id), self.stage_index
        return self._noted(ops, "gradients", here, here - 1, bwd_chunk_id)

    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        self._exchanges.arrived("activations", self.stage_index - 1, self.stage_index, fwd_chunk_id)
        return super().forward_one_chunk(fwd_chunk_id, *args, **kwargs)

    def backward_one_chunk(self, bwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        self._exchanges.arrived("gradients", self.stage_index + 1, self.stage_index, bwd_chunk_id)
        return super().backward_one_chunk(bwd_chunk_id, *args, **kwargs)

    def _noted(
        self, ops: list[dist.P2POp], what: What, source: int, destination: int, microbatch: int
    ) -> list[dist.P2POp]:
        """The exchanges that a schedule starts now. There are none if the other stage is on this rank."""
        if ops:
            is_send = source == self.stage_index
            self._exchanges.start(what, source, destination, microbatch, peer=ops[0].peer, is_send=is_send)
        return ops

    def backward_weight_one_chunk(self, *args: Any, **kwargs: Any) -> None:
        super().backward_weight_one_chunk(*args, **kwargs)
        self._on_weight_gradients(self.submod.parameters())

    def get_local_bwd_output(self, mb_index: int) -> Any:
        return super().get_local_bwd_output(mb_index) if self.has_backward else ()

    def set_local_bwd_input(self, next_stage_bwd_outputs: Any, mb_index: int) -> None:
        if self.has_backward:
            super().set_local_bwd_input(next_stage_bwd_outputs, mb_index)
