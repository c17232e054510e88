"""What this rank has sent to and asked for from other pipeline ranks, so that a hang can be explained."""

from dataclasses import dataclass, field
from typing import Literal

What = Literal["activations", "gradients"]


@dataclass
class Channel:
    """What one stage sends to another, as one of the two ranks sees it. Its micro-batches come in a fixed order."""

    what: What
    source: int
    """The stage that sends."""
    destination: int
    """The stage that receives."""
    peer: int
    """The global rank at the other end."""
    is_send: bool
    """Whether this rank sends."""
    count: int = 0
    """Micro-batches that this rank has sent, or asked for, since the start."""
    microbatch: int = -1
    """The last of them."""
    awaited: list[int] = field(default_factory=list)
    """Micro-batches that this rank has asked for and not used yet. On a GPU, the host uses them without a wait."""


class Exchanges:
    """The channels of one rank. Its methods are called when a schedule starts an exchange, or has ended it."""

    def __init__(self) -> None:
        self._channels: dict[tuple[What, int, int], Channel] = {}

    @property
    def channels(self) -> list[Channel]:
        """The channels that have been used."""
        return [*self._channels.values()]

    def start(self, what: What, source: int, destination: int, microbatch: int, *, peer: int, is_send: bool) -> None:
        """Note that this rank sends a micro-batch to `peer`, or asks for it."""
        key = (what, source, destination)
        channel = self._channels.get(key) or Channel(what, source, destination, peer, is_send)
        self._channels[key] = channel
        channel.count += 1
        channel.microbatch = microbatch
        if not is_send:
            channel.awaited.append(microbatch)

    def arrived(self, what: What, source: int, destination: int, microbatch: int) -> None:
        """Note that what this rank has asked for is here; nothing if it did not ask for it."""
        channel = self._channels.get((what, source, destination))
        if channel is not None and microbatch in channel.awaited:
            channel.awaited.remove(microbatch)
