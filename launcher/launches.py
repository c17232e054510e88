"""What a launcher answers, and the record of it in the run's folder."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from foretrain.launcher import records

LAUNCHES_FILE = "launches.jsonl"


@dataclass(frozen=True)
class Submitted:
    """A job that a cluster has taken."""

    title: str
    """What it is called, as in "Slurm job 123"."""
    id: str
    """The cluster's name for it."""
    watch: tuple[str, ...]
    """Commands that show how it is doing."""
    stop: str
    """The command that ends it."""
    again: str | None = None
    """The command that submits the same once more."""

    def lines(self) -> list[str]:
        """What the user is told."""
        named = [*(("watch", command) for command in self.watch), ("stop", self.stop)]
        named += [("again", self.again)] if self.again else []
        return [f"{self.title} is submitted", *(f"  {name:6} {command}" for name, command in named)]


@dataclass(frozen=True)
class Launch:
    """A line of LAUNCHES_FILE."""

    on: str
    id: str
    at: str
    """UTC, ISO 8601."""
    address: str | None = None
    """Of a Ray cluster."""


def record_launch(run_dir: Path, on: str, job_id: str, address: str | None = None) -> None:
    """Add a launch to the record."""
    launch = Launch(on, job_id, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), address)
    records.append(run_dir / LAUNCHES_FILE, asdict(launch))


def launches(run_dir: Path) -> list[Launch]:
    """The launches of a run so far, oldest first."""
    return [Launch(**entry) for entry in records.entries(run_dir / LAUNCHES_FILE)]
