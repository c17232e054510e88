"""What became of each check, the exit status that follows, and the results file. Imports no torch."""

import json
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from getpass import getuser
from pathlib import Path
from typing import Any, Literal

from foretrain.files import write_atomically

VERSION = 1
"""Version of the form of the results file."""
NUM_LINES = 30
"""Last lines of output that the file keeps of a check that did not pass."""

EXIT_PASSED = 0
EXIT_FAILED = 1
EXIT_REFUSED = 2
EXIT_NOT_RUN = 3

Status = Literal["passed", "failed", "not run", "not applicable"]


@dataclass(frozen=True)
class Outcome:
    """What became of one check."""

    name: str
    status: Status
    """"not run": the time did not suffice, or the program was interrupted. "not applicable": the check needs a GPU, or
    more of them."""
    seconds: float = 0.0
    measured: Mapping[str, Any] = field(default_factory=dict)
    """What was measured, by names that end with a unit where there is one."""
    reason: str = ""
    """Why it did not pass."""
    output: tuple[str, ...] = ()
    """The last lines of output of a check that did not pass, without names of hosts, users and folders."""

    def record(self) -> dict[str, Any]:
        """The outcome as JSON can hold it. `passed` is null if the check did not decide anything."""
        passed = {"passed": True, "failed": False}.get(self.status)
        return {"name": self.name, "passed": passed, **asdict(self), "seconds": round(self.seconds, 1)}


def exit_status(outcomes: Sequence[Outcome]) -> int:
    """The exit status: 1 if a check failed, else 3 if one was not run, else 0."""
    statuses = {outcome.status for outcome in outcomes}
    if "failed" in statuses:
        return EXIT_FAILED
    return EXIT_NOT_RUN if "not run" in statuses else EXIT_PASSED


def write_results(path: Path, header: Mapping[str, Any], outcomes: Sequence[Outcome]) -> None:
    """Write the results file: the version, the header, and a record for each check."""
    path.parent.mkdir(parents=True, exist_ok=True)
    results = {"version": VERSION, **header, "checks": [outcome.record() for outcome in outcomes]}
    write_atomically(path, json.dumps(results, indent=1) + "\n")


def last_lines(text: str) -> tuple[str, ...]:
    """The last lines of an output, without the names of this host, this user and folders."""
    lines = [line.rstrip() for line in anonymous(text).splitlines() if line.strip()]
    return tuple(lines[-NUM_LINES:])


def anonymous(text: str) -> str:
    """The text without the names of this host and this user, and with the last two parts of absolute paths only."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    text = re.sub(r"(?<![\w./:])/(?:[^\s/'\",:;()]+/)+(?=[^\s/'\",:;()]+/[^\s/'\",:;()]+)", ".../", text)
    for name, instead in ((socket.gethostname(), "HOST"), (_user(), "USER")):
        # "root" and very short names are also words of messages.
        if len(name) > 2 and name not in ("root", "localhost"):
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", instead, text)
    return text


def _user() -> str:
    try:
        return getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        return ""
