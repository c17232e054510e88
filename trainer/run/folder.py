"""The names of the files in a run folder."""

from pathlib import Path

CONFIG_FILE = "config.yaml"
"""Every setting of the run."""
ENVIRONMENT_FILE = "environment.json"
"""Versions and machines that the run uses."""
CHECKPOINTS = "checkpoints"
PARTIAL = "partial-"
"""What the name of a folder in `checkpoints` begins with while it is written or removed."""
DAMAGED = "damaged-"
"""What the name of a checkpoint begins with after it was found damaged and was kept aside."""
RECORD = "run.json"
"""The record in a checkpoint; see trainer/checkpoint/record.py."""
LOGS = "logs"
"""Folder of the output of each rank."""
HANGS = "hangs"
"""Folder of the reports of hangs: a folder for each, with report.txt and a file for each rank."""
CODE = "code"
"""Folder of a copy of the code, for jobs that start later than they are submitted."""


def newest_checkpoint(run_dir: Path) -> Path | None:
    """The newest complete checkpoint of a run; None if there is none. Incomplete checkpoints have another name."""
    return max((run_dir / CHECKPOINTS).glob("step-*"), default=None)


def step_of(checkpoint: Path) -> int:
    """Steps that were done when a checkpoint was written."""
    return int(checkpoint.name.removeprefix("step-"))
