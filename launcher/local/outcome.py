"""How a rank ended, as plain data: what the rank reports, and the exit status of its process."""

import signal
from dataclasses import dataclass


@dataclass(frozen=True)
class Returned:
    """The target returned."""

    value: bytes | None
    """The pickled return value, if the launcher asked for it."""


@dataclass(frozen=True)
class Raised:
    """The target raised an exception."""

    name: str
    """The name of the exception's class."""
    message: str
    """The text of the exception."""
    traceback: str
    """The complete traceback, ready to print."""
    at_s: float
    """The time on the machine's monotonic clock, which all ranks share."""
    is_user_error: bool
    """Whether it is a ValueError: the user can repair it, and the message says how."""
    is_communication: bool
    """Whether it reports a lost peer or network. Such an error is rarely the cause."""


@dataclass(frozen=True)
class Exited:
    """The target called sys.exit."""

    code: int
    """The exit status of the process."""
    message: str
    """The text that it got in place of a number, or nothing."""
    at_s: float
    """The time on the machine's monotonic clock."""


Report = Returned | Raised | Exited


@dataclass(frozen=True)
class Outcome:
    """The end of one rank."""

    rank: int
    report: Report | None
    """What the rank reported; None if it could not report anything."""
    exit_code: int | None
    """The exit code of its process, negative for a signal; None while it still runs."""
    at_s: float
    """The time at which it ended, or at which the launcher noticed."""

    @property
    def failed(self) -> bool:
        """Whether the rank did not succeed."""
        return self.status != 0

    @property
    def status(self) -> int:
        """The exit status as a shell reports it: 1 for an exception, 128 + n for signal n."""
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
