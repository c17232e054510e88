"""What this rank has sent to other ranks and asked them for, one rank at a time, so that a hang can be explained."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

NUM_KEPT = 100
"""Micro-batches that a channel remembers. Hosts that never wait for exchanges are about a step apart at most."""


@dataclass
class Channel:
    """What one end sends to another, as one of the two ranks sees it. Both ranks take its exchanges in one order."""

    what: str
    """Such as "activations"."""
    source: str
    """The end that sends, such as "pipeline stage 0 (rank 0)"."""
    destination: str
    """The end that receives."""
    peer: int
    """The global rank at the other end."""
    is_send: bool
    """Whether this rank sends."""
    awaited: int | None
    """The number of the exchange whose end the host waits for; the first has the number 1, and 0 is none.

    None if that is not known: on a GPU, the host does not wait.
    """
    count: int = 0
    """Exchanges that this rank has started, as sender or receiver."""
    recent: list[int | None] = field(default_factory=list)
    """The micro-batches of the last of them, in their order; None for those without one."""

    @property
    def key(self) -> tuple[str, str, str]:
        """The same at both ends."""
        return self.what, self.source, self.destination

    def named(self, number: int) -> str:
        """An exchange in words. The micro-batch of one that this rank has not started, or long ago, is not known."""
        place = number - 1 - self.count + len(self.recent)
        microbatch = self.recent[place] if 0 <= place < len(self.recent) else None
        of = "" if microbatch is None else f" of micro-batch {microbatch}"
        return f"the exchange of the {self.what}{of} from {self.source} to {self.destination}"


class Started(NamedTuple):
    """An exchange that this rank has started."""

    channel: Channel
    number: int


class Exchanges:
    """The channels of one rank. `host_waits`: whether its host waits for exchanges, as on CPUs."""

    def __init__(self, *, host_waits: bool) -> None:
        self._host_waits = host_waits
        self._channels: dict[tuple[str, str, str], Channel] = {}

    @property
    def channels(self) -> list[Channel]:
        """The channels that have been used."""
        return [*self._channels.values()]

    def start(
        self, what: str, source: str, destination: str, microbatch: int | None = None, *, peer: int, is_send: bool
    ) -> Started:
        """Note that this rank sends something to `peer`, or asks it for that."""
        new = Channel(what, source, destination, peer, is_send, awaited=0 if self._host_waits else None)
        channel = self._channels.setdefault(new.key, new)
        channel.recent = [*channel.recent[1 - NUM_KEPT :], microbatch]
        channel.count += 1
        return Started(channel, channel.count)


@contextmanager
def waiting(started: Iterable[Started]) -> Iterator[None]:
    """A block in which the host waits for the end of exchanges. Nothing is noted where that is not known."""
    known = [each for each in started if each.channel.awaited is not None]
    for channel, number in known:
        channel.awaited = number
    try:
        yield
    finally:
        for channel, _ in known:
            channel.awaited = 0
