"""A pipeline stage that notes its exchanges with other ranks: the flight recorder of gloo has collectives only."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch.distributed as dist
from torch.distributed.pipelining import PipelineStage, schedules

from foretrain.parallel.exchanges import Exchanges, Started, waiting

ACTIVATIONS, GRADIENTS = "activations", "gradients"


class NotedStage(PipelineStage):
    """A stage that notes in `exchanges` what it starts, and what the host waits for.

    Before the first step, and when training and evaluation follow on each other, torch has the stages exchange the
    shapes of activations and gradients, and first whether they need to.
    """

    exchanges: Exchanges
    _shapes: tuple[str, ExitStack] | None = None
    """While torch exchanges shapes: of what, and the exchange that the host waits for."""

    # ---- the exchanges of a schedule ----

    def get_fwd_recv_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        return self._noted(super().get_fwd_recv_ops(fwd_chunk_id), ACTIVATIONS, self.stage_index - 1, fwd_chunk_id)

    def get_fwd_send_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        return self._noted(super().get_fwd_send_ops(fwd_chunk_id), ACTIVATIONS, self.stage_index + 1, fwd_chunk_id)

    def get_bwd_recv_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        return self._noted(super().get_bwd_recv_ops(bwd_chunk_id), GRADIENTS, self.stage_index + 1, bwd_chunk_id)

    def get_bwd_send_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        return self._noted(super().get_bwd_send_ops(bwd_chunk_id), GRADIENTS, self.stage_index - 1, bwd_chunk_id)

    def _noted(self, ops: list[dist.P2POp], what: str, other: int, microbatch: int) -> list[dist.P2POp]:
        """The operations of one exchange. There are none if the other stage is on this rank."""
        if ops:
            note = partial(self._start, what, what, other, microbatch)
            for op in ops:
                op.note = note  # type: ignore[attr-defined]
        return ops

    # ---- the exchanges of shapes ----

    def _warmup_forward_vote(self, *args: Any, **kwargs: Any) -> Any:
        with self._exchanging_shapes(ACTIVATIONS):
            return super()._warmup_forward_vote(*args, **kwargs)

    def _warmup_backward_result(self, *args: Any, **kwargs: Any) -> Any:
        with self._exchanging_shapes(GRADIENTS):
            return super()._warmup_backward_result(*args, **kwargs)

    def _recv_meta(self, src_stage: int) -> Any:
        with self._exchanging_shapes(ACTIVATIONS if src_stage < self.stage_index else GRADIENTS):
            return super()._recv_meta(src_stage)

    def _send_meta(self, meta: Any, dst_stage: int) -> None:
        with self._exchanging_shapes(ACTIVATIONS if dst_stage > self.stage_index else GRADIENTS):
            super()._send_meta(meta, dst_stage)

    @contextmanager
    def _exchanging_shapes(self, of: str) -> Iterator[None]:
        with ExitStack() as wait:
            self._shapes = of, wait
            try:
                yield
            finally:
                self._shapes = None

    def _resolve_peer_global_rank(self, stage_idx: int) -> int:
        """The rank of another stage. torch asks for it right before it exchanges shapes with that stage."""
        if self._shapes is not None:
            of, wait = self._shapes
            wait.close()  # the exchange before has ended
            wait.enter_context(waiting([self._start(of, f"shapes of {of}", stage_idx)]))
        return super()._resolve_peer_global_rank(stage_idx)

    def _start(self, of: str, what: str, other: int, microbatch: int | None = None) -> Started:
        """Note that an exchange with another stage starts. Activations go to the next stage, gradients back."""
        here, is_send = self.stage_index, (other > self.stage_index) == (of == ACTIVATIONS)
        source, destination = (here, other) if is_send else (other, here)
        ends = f"pipeline {self._named(source)}", self._named(destination)
        return self.exchanges.start(what, *ends, microbatch, peer=self._rank_of(other), is_send=is_send)

    def _named(self, stage: int) -> str:
        return f"stage {stage} (rank {self._rank_of(stage)})"

    def _rank_of(self, stage: int) -> int:
        assert self.group is not None
        return dist.get_global_rank(self.group, self.stage_index_to_group_rank[stage])


class _Batch(list[dist.Work]):
    """The works of exchanges that were started together."""

    started: list[Started]


_start_batch, _wait_for_batch = schedules._batch_p2p, schedules._wait_batch_p2p


def _start_noted(p2p_ops: list[dist.P2POp], desc: str | None = None) -> list[dist.Work]:
    notes = {id(op.note): op.note for op in p2p_ops if hasattr(op, "note")}  # an exchange may have several tensors
    started = [note() for note in notes.values()]
    batch = _Batch(_start_batch(p2p_ops, desc))
    batch.started = started
    return batch


def _wait_noted(work: list[dist.Work]) -> None:
    with waiting(work.started if isinstance(work, _Batch) else []):
        _wait_for_batch(work)


# All schedules start exchanges, and wait for them, by these two functions.
schedules._batch_p2p, schedules._wait_batch_p2p = _start_noted, _wait_noted
