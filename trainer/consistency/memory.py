"""The check that nothing changes the fp32 state of a rank between two updates of the optimizer.

Under ZeRO 1 to 3, a master weight or a moment exists on one rank only, so that no other rank can tell whether it is
right. But between two updates nothing may write to it: if its bits are others before an update than after the one
before, the memory of the rank is at fault.
"""

import socket

import torch
import torch.distributed as dist
from torch import Tensor

from foretrain.trainer.consistency.check import InconsistentRanksError
from foretrain.trainer.consistency.checksum import bits_of
from foretrain.trainer.state import ModelState


class ChangedMemoryError(InconsistentRanksError):
    """The state of a rank was changed in memory. The message, the same on every rank, names the ranks and the steps."""


class UnchangedState:
    """Compares the bits of this rank's state before each update with those after the update before it.

    The host does not wait for the device until `judge`.
    """

    def __init__(self, state: ModelState, run_dir: str) -> None:
        self._state, self._groups, self._run_dir = state, state.groups, run_dir
        self._noted: Tensor | None = None
        """The sums of the bits after the last update."""
        self._changed_before = torch.zeros((), dtype=torch.int64, device=self._groups.device)
        """The first step before whose update the state had changed; 0: none."""

    def note(self) -> None:
        """Remember the state, after an update."""
        self._noted = self._sums()

    def forget(self) -> None:
        """Compare nothing until `note` is called again: the state is going to be replaced."""
        self._noted = None

    def compare(self, step: int) -> None:
        """Compare the state with what was noted, before the update of `step`."""
        if self._noted is not None:
            is_first = (self._sums() != self._noted).any() & (self._changed_before == 0)
            self._changed_before = torch.where(is_first, step, self._changed_before)

    def judge(self, step: int) -> None:
        """Raise ChangedMemoryError, on every rank, if the state of one has changed. Every rank calls it."""
        groups = self._groups
        steps = torch.zeros(groups.layout.world_size, dtype=torch.int64, device=groups.device)
        steps[groups.rank] = self._changed_before
        dist.all_reduce(steps)
        found = {rank: changed for rank, changed in enumerate(steps.tolist()) if changed}
        if not found:
            return
        hosts = [""] * groups.layout.world_size
        dist.all_gather_object(hosts, socket.gethostname(), group=groups.cpu)
        lines = "\n  ".join(
            f"rank {rank} on {hosts[rank]}: between the updates of step {changed - 1} and of step {changed}"
            for rank, changed in found.items()
        )
        raise ChangedMemoryError(
            f"after step {step}, weights or moments that only the optimizer may change are not as it has left them:\n"
            f"  {lines}\nA checkpoint of step {min(found.values()) - 1} may have the change: resume from an earlier "
            f"one, and remove later ones from {self._run_dir}/checkpoints. Suspect the memory of the node: exclude it."
        )

    def _sums(self) -> Tensor:
        """The sum of the bits of each tensor, as int64 modulo 2^64: a change of one element always changes it."""
        found = []
        zero = self._state.zero
        for tensor in dict.fromkeys(shard.tensor for shard in self._state.shards):
            piece = zero.piece(tensor)
            found += [] if piece is None else [bits_of(each).sum() for each in piece.states.values()]
        return torch.stack([each.to(self._groups.device, non_blocking=True) for each in found])
