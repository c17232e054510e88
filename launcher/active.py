"""Refuses to launch what waits or runs already."""

from contextlib import nullcontext, suppress
from pathlib import Path

from foretrain.configs.launching import LaunchConfig
from foretrain.launcher.launchers import LAUNCHERS
from foretrain.launcher.launches import launches
from foretrain.launcher.protocol import ActiveJob, Launcher


def refuse_active(folder: Path, launcher: Launcher, launch: LaunchConfig) -> None:
    """Raise ValueError if a job of the folder waits or runs, or if the cluster to launch on does not answer."""
    active: list[ActiveJob] = []
    # The launcher itself, too: a launch on a cluster that could not be recorded is in no file.
    here = [] if launcher.uses_one_machine else [launcher.name]
    for name in dict.fromkeys([*(launched.on for launched in launches(folder)), *here]):
        if name in LAUNCHERS:
            other = LAUNCHERS.get(name)
            # Another cluster may be silent: the folder's lock still protects the run.
            with nullcontext() if other is launcher else suppress(ValueError):
                active += other.active(folder, launch)
    if active:
        raise ValueError(
            f"{folder} was launched as {' and '.join(job.title for job in active)}, which still waits or runs: wait "
            "for it, stop it, or set another folder (run_dir, or --out of a sweep)"
        )
