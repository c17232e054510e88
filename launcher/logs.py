"""Where each rank's output is written, under every launcher."""

from pathlib import Path

from foretrain.trainer.run.folder import LOGS

LOG_START = "--- rank "
"""The start of the first line that each start of a rank adds to its log."""


def log_path(log_dir: Path, rank: int) -> Path:
    """The log of a rank; later starts append to it."""
    return log_dir / f"rank-{rank:03d}.log"


def log_files(folder: Path) -> list[Path]:
    """All logs of a run or of a job array."""
    return sorted((folder / LOGS).glob("*.log"))
