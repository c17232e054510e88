"""Slurm's commands, in an environment that changes none of their options."""

import os
import shutil
import subprocess


def check() -> None:
    """Raise ValueError if there is no Slurm to submit to."""
    if shutil.which("sbatch") is None:
        raise ValueError(
            "sbatch is not found: launch from a login node of the cluster, or print the script with --dry-run"
        )


def ask(*command: str) -> str:
    """What a command of Slurm prints. Raises ValueError with its error message if it fails."""
    # No other variables: SBATCH_* would win over the script's options, and SLURM_* are those of the job around this.
    env = {name: os.environ[name] for name in ("PATH", "HOME", "USER", "SLURM_CONF") if name in os.environ}
    try:
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise ValueError(f"{command[0]} is not found: is Slurm installed here?") from None
    except subprocess.CalledProcessError as error:
        raise ValueError(f"{' '.join(command)}: {error.stderr.strip() or error.stdout.strip()}") from None
