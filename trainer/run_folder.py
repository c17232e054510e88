"""What lies where in the folder of a run."""

from pathlib import Path

CONFIG_FILE = "config.yaml"
"""Every setting of the run."""
ENVIRONMENT_FILE = "environment.json"
"""What it runs on."""
CHECKPOINTS = "checkpoints"
RECORD = "run.json"
"""In a checkpoint: where in the run it was written."""
LOGS = "logs"
"""What each rank prints."""
CODE = "code"
"""A copy of the code, for jobs that start later than they are launched."""


def newest_checkpoint(run_dir: Path) -> Path | None:
    """The newest complete checkpoint of a run: partial ones have another name."""
    return max((run_dir / CHECKPOINTS).glob("step-*"), default=None)


def step_of(checkpoint: Path) -> int:
    """The steps that were done when it was written."""
    return int(checkpoint.name.removeprefix("step-"))
