"""The batch script of a run, and the pieces that it shares with that of a job array."""

import re
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from foretrain.configs.launching import LaunchConfig
from foretrain.launcher.job import Job

SCRIPT = "job.sbatch"
SECRETS = "job.env"
"""A file of the run's folder that only its owner can read: the secrets of the ranks' environment."""


def render(job: Job, launch: LaunchConfig) -> str:
    """The batch script of a job."""
    values = {
        "OPTIONS": "\n".join(f"#SBATCH {option}" for option in _options(job, launch)),
        "RUN_DIR": shlex.quote(job.run_dir),
        "PYTHON": shlex.quote(job.python),
        "EXPORTS": exports(job),
        "SETUP": setup_lines(launch.setup),
        "MAX_STARTS": str(job.max_starts),
        "LEAD": str(launch.stop_lead_s),
        "CPUS_PER_RANK": str(job.cpus_per_rank),
        "RANKS_PER_NODE": str(job.ranks_per_node),
        "RANK_LOG": shlex.quote(f"{pattern(job.logs)}/rank-%3t.log"),
        "COMMAND": shlex.join(job.command),
    }
    return filled("job.sbatch.in", values)


def filled(template: str, values: Mapping[str, str]) -> str:
    """A template of the folder `slurm` with its @NAME@s replaced by their values."""
    text = files("foretrain.slurm").joinpath(template).read_text(encoding="utf-8")
    return re.sub("@([A-Z_]+)@", lambda match: values[match[1]], text)


def exports(job: Job) -> str:
    """The shell lines that set the ranks' environment."""
    public = [f"export {name}={shlex.quote(value)}" for name, value in job.env if name not in job.secrets]
    secret = [f". {shlex.quote(str(job.folder / SECRETS))}"] if job.secrets else []
    return "\n".join([*public, *secret])


def setup_lines(lines: Sequence[str]) -> str:
    """The lines of launch.setup. They may use variables that are not set; one that fails ends the job."""
    checked = [f"{{\n{line}\n}} || fail {shlex.quote(f'launch.setup failed: {line}')}" for line in lines]
    return "\n".join(["set +u", *checked, "set -u", ""]) if lines else ""


def secrets(job: Job) -> str:
    """The content of the file SECRETS."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in job.secrets.items())


def _options(job: Job, launch: LaunchConfig) -> list[str]:
    return [
        f"--job-name={job.name}",
        f"--nodes={job.num_nodes}",
        f"--ntasks-per-node={job.ranks_per_node}",
        f"--cpus-per-task={job.cpus_per_rank}",
        *([f"--gres=gpu:{job.gpus_per_node}"] if job.gpus_per_node else []),
        *chosen(launch),
        f"--signal=B:USR2@{launch.stop_lead_s}",
        "--requeue",
        "--open-mode=append",
        f"--output={quoted(pattern(job.logs) + '/slurm-%j.log')}",
        f"--chdir={quoted(job.workdir)}",
        "--export=ALL",
        *launch.slurm.options,
    ]


def chosen(launch: LaunchConfig) -> list[str]:
    """The options of sbatch that `launch.slurm` sets."""
    slurm = launch.slurm
    named = {"partition": slurm.partition, "account": slurm.account, "qos": slurm.qos, "time": slurm.time}
    return [f"--{name}={value}" for name, value in named.items() if value is not None]


def pattern(path: Path) -> str:
    """A path for a pattern of file names, in which Slurm must replace nothing."""
    return str(path).replace("%", "%%")


def quoted(text: str) -> str:
    """A path in the quotes of an #SBATCH line. Raises ValueError for characters that Slurm does not accept there."""
    if re.search(r'[\\"\n]', text):
        raise ValueError(
            f"{text!r}: Slurm accepts no path with a backslash, a double quote or a line break: choose another path"
        )
    return f'"{text}"'
