"""The ranks of one machine, which read together what several of them need: one reads it and sends it to the others.

They exchange messages in a group that is there anyway, so a rank that is killed leaves nothing behind: its connections
break, and the others end.
"""

import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from foretrain.faults import PassingError, is_passing
from foretrain.parallel.groups import Groups
from foretrain.trainer.checkpoint.checksums import DamagedError
from foretrain.trainer.checkpoint.places import Place
from foretrain.trainer.checkpoint.reading.sharing import Run

Value = TypeVar("Value")
_FAILED = -1
"""Sent in place of the number of bytes of a run by a rank that has none for the others."""


class Node:
    """The ranks of this machine. Every one of them must call the same methods in the same order."""

    def __init__(self, ranks: Sequence[int] = (0,), rank: int = 0, group: dist.ProcessGroup | None = None) -> None:
        self._ranks, self._group = ranks, group
        self.place = ranks.index(rank)
        """The place of this rank among them."""

    @classmethod
    def that_shares(cls, folder: Place, groups: Groups) -> "Node":
        """The ranks with which this one shares what it reads of a checkpoint in `folder`. Every rank must call it.

        A file system that this machine has mounted reads each byte once for all of its processes and keeps it in
        memory, where a rank finds it sooner than in a message. A server sends what each process asks for.
        """
        if isinstance(folder, Path) or groups.layout.world_size == 1:
            return cls()
        hosts: list[str] = [""] * groups.layout.world_size
        dist.all_gather_object(hosts, host_name(), group=groups.cpu)
        return cls([rank for rank, host in enumerate(hosts) if host == hosts[groups.rank]], groups.rank, groups.cpu)

    def gather(self, value: Value) -> list[Value]:
        """The values of all ranks of this machine."""
        if len(self._ranks) == 1:
            return [value]
        first, *others = self._ranks
        if self.place:
            self._send(value, first)
            found: list[Value] = self._receive(first)
            return found
        found = [value, *(self._receive(rank) for rank in others)]
        for rank in others:
            self._send(found, rank)
        return found

    def once(self, read: Callable[[], Value]) -> Value:
        """What `read` returns on the first rank of this machine, on all of them. Raises as `raise_first`."""
        value, error = None, None
        if self.place == 0:
            try:
                value = read()
            except Exception as failure:  # noqa: BLE001 (the others wait for an answer)
                error = failure
        self.raise_first(error)
        found: Any = self.gather(value)[0]
        return found

    def raise_first(self, error: Exception | None) -> None:
        """Raise an error on all ranks of this machine if one of them has one.

        That one raises its own, and the others a DamagedError if it is about damage, else an OSError, which passes if
        the error does.
        """
        kind: type[Exception] = PassingError if is_passing(error) else OSError
        if isinstance(error, (DamagedError, FileNotFoundError)):
            kind = DamagedError
        found = self.gather(None if error is None else (kind, str(error)))
        if error is not None:
            raise error
        for kind, text in filter(None, found):
            raise kind(text)

    def exchange(
        self,
        runs: Sequence[Run],
        read: Callable[[Run], Tensor | None],
        take: Callable[[Run, Tensor | None], None],
    ) -> None:
        """Let each rank `read` its run of a round, and all ranks that need it `take` it; None is passed on as it is."""
        works: list[Any] = []
        for run in runs:
            if run.reader == self.place:
                content = read(run)
                size = torch.tensor(_FAILED if content is None else len(content))
                for place in run.receivers:
                    works += [self._start(message, place) for message in (size, content) if message is not None]
                take(run, content)
        for run in runs:
            if self.place in run.receivers:
                take(run, self._receive_content(self._ranks[run.reader]))
        for work in works:
            work.wait()

    def _start(self, message: Tensor, place: int) -> Any:
        return dist.isend(message, self._ranks[place], group=self._group)

    def _receive_content(self, rank: int) -> Tensor | None:
        size = torch.tensor(0)
        dist.recv(size, rank, group=self._group)
        if size == _FAILED:
            return None
        content = torch.empty(int(size), dtype=torch.uint8)
        dist.recv(content, rank, group=self._group)
        return content

    def _send(self, value: Any, rank: int) -> None:
        dist.send_object_list([value], rank, group=self._group, device=torch.device("cpu"))

    def _receive(self, rank: int) -> Any:
        values: list[Any] = [None]
        dist.recv_object_list(values, rank, group=self._group, device=torch.device("cpu"))
        return values[0]


def host_name() -> str:
    """The name of this machine."""
    return socket.gethostname()
