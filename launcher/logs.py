"""Where each rank's output is written, under every launcher."""

from pathlib import Path

LOG_START = "--- rank "
"""The first line of each life of a rank in its log starts so."""


def log_path(log_dir: Path, rank: int) -> Path:
    """The log of a rank; its later lives write on below."""
    return log_dir / f"rank-{rank:03d}.log"
