"""Runs on this machine, in the foreground: the script of such a run, and becoming it."""

import os
import shlex
import sys
from typing import NoReturn

from foretrain.configs.launching import LaunchConfig
from foretrain.launcher.job import Job, code_variables, environment

SCRIPT = "job.sh"


def render(job: Job, launch: LaunchConfig) -> str:
    """The script that trains on all ranks here, in the environment in which it is started."""
    _, settings = environment(launch.env, {})
    exports = {**settings, **code_variables(job.code)}
    return "\n".join(
        [
            "#!/bin/bash",
            f"# A run of foretrain on one machine. Again, to go on from its newest checkpoint: bash {_script(job)}",
            f"cd {shlex.quote(job.workdir)} || exit",
            *(f"export {name}={shlex.quote(value)}" for name, value in exports.items()),
            f"exec {shlex.join(job.command)}",
            "",
        ]
    )


def _script(job: Job) -> str:
    return shlex.quote(str(job.folder / SCRIPT))


def become(job: Job) -> NoReturn:
    """Run the script in the run's folder in place of this process: its signals and its status are the script's."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvp("bash", ["bash", str(job.folder / SCRIPT)])
