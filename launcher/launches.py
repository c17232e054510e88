"""The record of a folder's launches."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from foretrain import records

LAUNCHES_FILE = "launches.jsonl"


@dataclass(frozen=True)
class Launch:
    """A line of LAUNCHES_FILE."""

    on: str
    """The name of the launcher."""
    id: str
    """The name that the cluster gave the job."""
    at: str
    """UTC, ISO 8601."""
    address: str | None = None
    """The address of the Ray cluster."""


def record_launch(folder: Path, on: str, job_id: str, address: str | None = None) -> None:
    """Add a launch to the record of a folder."""
    launch = Launch(on, job_id, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), address)
    records.append(folder / LAUNCHES_FILE, asdict(launch))


def launches(folder: Path) -> list[Launch]:
    """The launches of a folder so far, oldest first."""
    return [Launch(**entry) for entry in records.entries(folder / LAUNCHES_FILE)]
