"""A step's forward and backward passes on more than one rank, whose gradients must be equal to the last bit."""

import socket
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from foretrain.data_pipeline.stream.batch import Batch
from foretrain.parallel.engine import Engine
from foretrain.parallel.exchanges import Started, waiting
from foretrain.trainer.consistency.check import InconsistentRanksError
from foretrain.trainer.consistency.checksum import checksum
from foretrain.trainer.consistency.verdict import (
    FIRST_SHIFTS,
    deciding_shifts,
    has_difference,
    rank_with_samples,
    verdict,
)
from foretrain.trainer.objectives.base import Objective

Tensors = tuple[Tensor, Tensor, Tensor | None]
"""Inputs, targets and positions of this rank's samples."""


class Replay:
    """Finds ranks that compute wrongly: each step that is replayed is computed by two replicas, and by itself.

    Before the step, each replica computes the gradients of its own samples and those of the next replica, without
    reducing them; if ranks differ, more rounds say which are wrong. Then the step itself must give the gradients of the
    first round. A replica that has no others computes its own twice, and finds only what does not repeat. Every rank
    makes one, and calls its methods at the same steps.
    """

    def __init__(self, engine: Engine, objective: Objective) -> None:
        self._engine, self._objective, self._groups = engine, objective, engine.groups
        self._sums: list[Tensor] = []
        self._expected: int | None = None
        self._step = ExitStack()

    def cancel(self) -> None:
        """Forget a step that was replayed and does not count, since the run went back to a checkpoint."""
        self._step.close()
        self._sums, self._expected = [], None

    def before_step(self, number: int, batch: Batch) -> None:
        """Replay step `number`, whose samples are `batch`, and observe the step that follows.

        Raises InconsistentRanksError, on every rank, if ranks differ.
        """
        layout, shifts = self._groups.layout, list(FIRST_SHIFTS)
        tensors = self._objective.tensors(batch)
        with self._observed():
            words = [self._round(tensors, shift) for shift in shifts]
            if has_difference(layout, shifts, words):
                for shift in deciding_shifts(layout.dp):
                    shifts.append(shift)
                    words.append(self._round(tensors, shift))
                raise InconsistentRanksError(_explain(number, verdict(layout, shifts, words, self._nodes())))
        self._expected = words[0][self._groups.rank]
        self._step.enter_context(self._observed())

    def after_step(self, number: int) -> None:
        """Compare the gradients of the step with those of its replay. Raises InconsistentRanksError, on every rank."""
        if self._expected is None:
            return
        self._step.close()
        differs, self._expected = self._word() != self._expected, None
        wrong = [rank for rank, is_wrong in enumerate(self._gather(int(differs))) if is_wrong]
        if wrong:
            nodes = self._nodes()
            lines = [f"rank {rank} (node {nodes[rank]}): the step differs from its own repetition" for rank in wrong]
            raise InconsistentRanksError(_explain(number, lines))

    @contextmanager
    def _observed(self) -> Iterator[None]:
        """A block in which gradients are observed, and computed by deterministic kernels."""
        before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*deterministic")  # a kernel has no such form
            torch.use_deterministic_algorithms(True, warn_only=True)
            self._engine.zero.observe_gradients(lambda gradients: self._sums.append(checksum(gradients)))
            try:
                yield
            finally:
                self._engine.zero.observe_gradients(None)
                torch.use_deterministic_algorithms(before[0], warn_only=before[1])

    def _round(self, tensors: Tensors, shift: int) -> list[int]:
        """Each rank's checksum of gradients, for the samples of the replica whose number is higher by `shift`."""
        self._engine.try_step(*self._exchanged(tensors, shift))
        return self._gather(self._word())

    def _word(self) -> int:
        """The checksum of all gradients that were observed."""
        sums, self._sums = torch.stack(self._sums), []
        return int(checksum(sums))

    def _exchanged(self, tensors: Tensors, shift: int) -> Tensors:
        """The tensors of the rank whose samples this one computes; this rank's go to the one that computes them."""
        layout, rank = self._groups.layout, self._groups.rank
        source, target = rank_with_samples(layout, rank, shift), rank_with_samples(layout, rank, -shift)
        if source == rank:
            return tensors
        received = [None if each is None else torch.empty_like(each) for each in tensors]
        sent, asked = self._started(rank, target, is_send=True), self._started(source, rank, is_send=False)
        works = [
            (started, exchange(each.contiguous(), other, group=self._groups.cpu))
            for started, exchange, others, other in (
                (sent, dist.isend, tensors, target),
                (asked, dist.irecv, received, source),
            )
            for each in others
            if each is not None
        ]
        for started, work in works:
            assert work is not None
            with waiting([started]):
                work.wait()
        inputs, targets, positions = received
        assert inputs is not None and targets is not None
        return inputs, targets, positions

    def _started(self, source: int, destination: int, *, is_send: bool) -> Started:
        """The exchange of samples between two ranks, which starts now, and is noted."""
        peer = destination if is_send else source
        ends = f"rank {source}", f"rank {destination}"
        return self._engine.exchanges.start("samples of a replay", *ends, peer=peer, is_send=is_send)

    def _gather(self, word: int) -> list[int]:
        words = [torch.zeros((), dtype=torch.int64) for _ in range(self._groups.layout.world_size)]
        dist.all_gather(words, torch.tensor(word), group=self._groups.cpu)
        return [int(each) for each in words]

    def _nodes(self) -> list[str]:
        nodes = [""] * self._groups.layout.world_size
        dist.all_gather_object(nodes, socket.gethostname(), group=self._groups.cpu)
        return nodes


def _explain(number: int, lines: Sequence[str]) -> str:
    listed = "\n  ".join(lines)
    return (
        f"step {number}, computed again, gave gradients that differ, and must be equal to the last bit:\n  {listed}\n"
        "No later checkpoint than that of the step before was written: resume from it without the node of a rank that "
        "is named here. A wrong value spreads to all ranks of its replica (tp, cp, pp). If sound nodes differ too, "
        "their hardware or libraries are not the same, or a kernel is nondeterministic: set train.replay_every=0."
    )
