"""Forwards the signals that ask a launcher to stop to its ranks."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

# Ctrl-C, and a terminal that is closed, also ask the ranks to save: SIGINT and SIGHUP themselves reach all processes of
# the terminal, and the ranks ignore them.
_FORWARDED = {
    signal.SIGINT: signal.SIGTERM,
    signal.SIGHUP: signal.SIGTERM,
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGUSR2: signal.SIGUSR2,
}

_ECHO_S = 0.5
"""Wrappers repeat the terminal's Ctrl-C to their child: a second one within these seconds is the same one."""


@dataclass
class Stop:
    """When to stop waiting for ranks, and which signal asked for it."""

    deadline_s: float = float("inf")
    """On the monotonic clock."""
    signum: int | None = None
    """The signal that the launcher received last."""


class Interrupt(BaseException):
    """A signal that ends the run at once, without asking the ranks first."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Forwarding:
    """A context that handles SIGINT, SIGHUP, SIGTERM and SIGUSR2. It needs the main thread.

    The first signal is forwarded to the ranks, which then have `grace_s` seconds to end. A second Ctrl-C, or any signal
    before there are ranks, raises Interrupt in the main thread.
    """

    def __init__(self, grace_s: float) -> None:
        self.stop = Stop()
        self._grace_s = grace_s
        self._send: Callable[[int], None] | None = None
        self._first_s = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Forwarding":
        for signum in _FORWARDED:
            if signum == signal.SIGHUP and signal.getsignal(signum) is signal.SIG_IGN:
                continue  # after nohup, the run continues without its terminal
            self._previous[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def forward_to(self, send: Callable[[int], None]) -> None:
        """Call `send`, which sends a signal to the ranks, with each signal from now on."""
        self._send = send

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        now_s = time.monotonic()
        if self._send is None:
            raise Interrupt(signum)
        if self.stop.signum is None:
            self._first_s = now_s
            self.stop.deadline_s = now_s + self._grace_s
            hint = "; Ctrl-C again kills them" if signum == signal.SIGINT else ""
            name = signal.Signals(signum).name
            # os.write, since this may interrupt a print, and a buffered stream cannot be entered twice.
            with suppress(OSError):  # the terminal may be gone
                os.write(2, f"\n{name}: waiting up to {self._grace_s:.0f} s for the ranks to end{hint}\n".encode())
        elif signum == signal.SIGINT:
            if now_s - self._first_s < _ECHO_S:
                return
            raise Interrupt(signum)
        self.stop.signum = signum
        self._send(_FORWARDED[signal.Signals(signum)])
