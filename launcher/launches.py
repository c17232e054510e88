"""The record of a folder's launches."""

import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from foretrain import records

logger = logging.getLogger(__name__)

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


def record_submitted(folder: Path, on: str, job_id: str, address: str | None = None) -> None:
    """Do what `record_launch` does, for a job that a cluster has already: what prevents it is a warning, no error."""
    try:
        record_launch(folder, on, job_id, address)
    except OSError as error:
        logger.warning("%s job %s is submitted, and its launch cannot be recorded (%s)", on, job_id, error)


def launches(folder: Path) -> list[Launch]:
    """The launches of a folder so far, oldest first."""
    return [Launch(**entry) for entry in records.entries(folder / LAUNCHES_FILE)]
