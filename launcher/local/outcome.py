"""How a rank ended, as plain data: what the rank says itself, and what its process shows."""

import signal
from dataclasses import dataclass


@dataclass(frozen=True)
class Returned:
    """The target came to its end."""

    value: bytes | None
    """The pickled return value, where the launcher asked for it."""


@dataclass(frozen=True)
class Raised:
    """The target raised an exception."""

    name: str
    """The exception's class."""
    message: str
    """Its text."""
    traceback: str
    """The whole traceback, ready to print."""
    at_s: float
    """When, on the machine's monotonic clock, which all ranks share."""
    is_user_error: bool
    """A ValueError: the user can mend it, and its message says how."""
    is_communication: bool
    """It says that a peer or the network is gone, so it is rarely the cause."""


@dataclass(frozen=True)
class Exited:
    """The target called sys.exit."""

    code: int
    """Status of the process."""
    message: str
    """What it was given in place of a number, or nothing."""
    at_s: float
    """When, on the machine's monotonic clock."""


Report = Returned | Raised | Exited


@dataclass(frozen=True)
class Outcome:
    """One rank's end."""

    rank: int
    report: Report | None
    """What the rank said; None where it could not say anything."""
    exit_code: int | None
    """Of its process, negative for a signal; None while it still runs."""
    at_s: float
    """When the launcher heard of it."""

    @property
    def failed(self) -> bool:
        """Whether this end is not a success."""
        return self.status != 0

    @property
    def status(self) -> int:
        """The exit status that a shell would see: 1 for an exception, 128 + n for signal n."""
        if isinstance(self.report, Raised):
            return 1
        if self.exit_code is None:
            return self.report.code if isinstance(self.report, Exited) else 0
        return 128 - self.exit_code if self.exit_code < 0 else self.exit_code

    @property
    def signal_name(self) -> str | None:
        """The signal that killed the process, if one did."""
        if self.exit_code is None or self.exit_code >= 0:
            return None
        names = {known.value: known.name for known in signal.Signals}
        return names.get(-self.exit_code, f"signal {-self.exit_code}")
