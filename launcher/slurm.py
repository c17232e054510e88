"""Runs as Slurm jobs: renders the batch script, submits it, and says how to watch and stop it."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from foretrain.configs.launching import LaunchConfig
from foretrain.launcher.job import Job
from foretrain.launcher.launches import Submitted
from foretrain.launcher.logs import log_path

SCRIPT = "job.sbatch"
SECRETS = "job.env"
"""In the run's folder, for its owner alone: what others must not read of the ranks' environment."""


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
    """A template of the folder `slurm`, with what stands for each @NAME@ in it."""
    text = files("foretrain.slurm").joinpath(template).read_text(encoding="utf-8")
    return re.sub("@([A-Z_]+)@", lambda match: values[match[1]], text)


def exports(job: Job) -> str:
    """The shell lines that set the ranks' environment."""
    public = [f"export {name}={shlex.quote(value)}" for name, value in job.env if name not in job.secrets]
    secret = [f". {shlex.quote(str(job.folder / SECRETS))}"] if job.secrets else []
    return "\n".join([*public, *secret])


def setup_lines(lines: Sequence[str]) -> str:
    """The user's lines. What they source may use variables that are not set, and what fails ends the job."""
    checked = [f"{{\n{line}\n}} || fail {shlex.quote(f'launch.setup failed: {line}')}" for line in lines]
    return "\n".join(["set +u", *checked, "set -u", ""]) if lines else ""


def secrets(job: Job) -> str:
    """What SECRETS holds."""
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
    """The options of sbatch that `launch.slurm` names."""
    slurm = launch.slurm
    named = {"partition": slurm.partition, "account": slurm.account, "qos": slurm.qos, "time": slurm.time}
    return [f"--{name}={value}" for name, value in named.items() if value is not None]


def pattern(path: Path) -> str:
    """A path in which Slurm replaces nothing."""
    return str(path).replace("%", "%%")


def quoted(text: str) -> str:
    """As an #SBATCH line takes it. Raises ValueError for what it cannot take."""
    if re.search(r'[\\"\n]', text):
        raise ValueError(
            f"{text!r}: Slurm takes no paths with a backslash, a double quote or a line break: choose another"
        )
    return f'"{text}"'


def check() -> None:
    """Raise ValueError where there is no Slurm to submit to."""
    if shutil.which("sbatch") is None:
        raise ValueError(
            "sbatch is not found: launch from a login node of the cluster, or see what it would get with --dry-run"
        )


def submit(job: Job) -> Submitted:
    """Submit the script in the run's folder. Raises ValueError with what sbatch says against it."""
    answer = ask("sbatch", "--parsable", str(job.folder / SCRIPT))
    job_id = answer.strip().partition(";")[0]
    return Submitted(
        title=f"Slurm job {job_id}",
        id=job_id,
        watch=(f"squeue --jobs={job_id}", f"tail -F {shlex.quote(str(log_path(job.logs, 0)))}"),
        stop=f"scancel {job_id}",
        again=f"sbatch {shlex.quote(str(job.folder / SCRIPT))}",
    )


def active_jobs(job: Job) -> list[str]:
    """The ids of my jobs that wait or run with the script of this run, whoever submitted them, and how.

    Raises ValueError where Slurm does not tell.
    """
    lines = ask("squeue", "--me", "--noheader", "--format=%i %o").splitlines()
    script = str(job.folder / SCRIPT)
    return [job_id for job_id, _, command in (line.strip().partition(" ") for line in lines) if command == script]


def ask(*command: str) -> str:
    """What a command of Slurm prints. Raises ValueError with what it says where it fails."""
    # Not the others: options hide in SBATCH_*, which win over the script's; inside a job, SLURM_* are that job's.
    env = {name: os.environ[name] for name in ("PATH", "HOME", "USER", "SLURM_CONF") if name in os.environ}
    try:
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise ValueError(f"{command[0]} is not found: is Slurm installed here?") from None
    except subprocess.CalledProcessError as error:
        raise ValueError(f"{' '.join(command)}: {error.stderr.strip() or error.stdout.strip()}") from None
