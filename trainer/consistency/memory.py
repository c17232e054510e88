"""The check that nothing changes the fp32 state of a rank between two updates of the optimizer.

Under ZeRO 1 to 3, a master weight or a moment exists on one rank only, so that no comparison of ranks shows whether it
is right. But between two updates nothing may write to it: its bits before an update must be those after the one before.
"""

import socket

import torch
import torch.distributed as dist
from torch import Tensor

from foretrain.trainer.consistency.check import InconsistentRanksError
from foretrain.trainer.consistency.checksum import bits_of
from foretrain.trainer.state import ModelState

_CHUNK = 1 << 24
"""Elements that are summed at once: torch makes an int64 copy of what it sums."""


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
        self._start_step = 0

    def note_start(self, step: int) -> None:
        """Remember the state with which a session begins after `step` steps."""
        self._start_step = step
        self.note()

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
            f"  {lines}\n{self._advice(min(found.values()) - 1)}, and remove later checkpoints from "
            f"{self._run_dir}/checkpoints. Suspect a callback that writes to them, or the memory of the node."
        )

    def _advice(self, sound_step: int) -> str:
        """From where to start again, if the state changed at some time after the update of `sound_step`."""
        if sound_step == self._start_step:
            return f"Start again from step {sound_step}, as this session did"
        return f"Resume from a checkpoint before step {sound_step}: one of that step may have the change"

    def _sums(self) -> Tensor:
        """The sum of the bits of each tensor, as int64 modulo 2^64: a change of one element always changes it."""
        device = self._groups.device
        found = [torch.zeros((), dtype=torch.int64, device=device)]  # a rank may have no part of any parameter
        zero = self._state.zero
        for tensor in dict.fromkeys(shard.tensor for shard in self._state.shards):
            piece = zero.piece(tensor)
            found += [] if piece is None else [_sum(bits_of(each)) for each in piece.states.values()]
        return torch.stack([each.to(device, non_blocking=True) for each in found])


def _sum(bits: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for part in bits.split(_CHUNK):
        total += part.sum()
    return total
