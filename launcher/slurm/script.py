"""The batch script of a run, and the pieces that it shares with that of a job array."""

import re
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from foretrain.configs.checks import require_no_control_characters
from foretrain.configs.launching import LaunchConfig
from foretrain.launcher.job import Job

SCRIPT = "job.sbatch"
SECRETS = "job.env"
"""A file of the run's folder that only its owner can read: the secrets of the ranks' environment."""


def render(job: Job, launch: LaunchConfig) -> str:
    """The batch script of a job."""
    numbers = () if job.sizes is None else job.sizes.nodes(job.ranks_per_node)
    values = {
        "CPUS_PER_RANK": str(job.cpus_per_rank),
        "NODES": _nodes_lines(numbers, job.ranks_per_node) if numbers else "",
        "STEP_NODES": _step_nodes(job.ranks_per_node) if numbers else "",
        "RANKS_PER_NODE": str(job.ranks_per_node),
        "RANK_LOG": shlex.quote(f"{_pattern(job.logs)}/rank-%3t.log"),
        "COMMAND": shlex.join(job.command),
    }
    return filled("job.sbatch.in", job, launch, _size(job, numbers), "slurm-%j.log", values)


def _size(job: Job, numbers: Sequence[int]) -> list[str]:
    """The options of sbatch for the nodes of a job. `numbers`: those of an elastic run, ascending."""
    gpus = [f"--gres=gpu:{job.gpus_per_node}"] if job.gpus_per_node else []
    if not numbers:
        tasks = [f"--ntasks-per-node={job.ranks_per_node}", f"--cpus-per-task={job.cpus_per_rank}"]
        return [f"--nodes={job.num_nodes}", *tasks, *gpus]
    # One task a node: if the tasks of a node were counted, Slurm would give no more nodes than the least have tasks.
    return [
        f"--nodes={numbers[0]}-{numbers[-1]}",
        f"--cpus-per-task={job.ranks_per_node * job.cpus_per_rank}",
        *gpus,
    ]


def filled(
    template: str, job: Job, launch: LaunchConfig, size: Sequence[str], log_name: str, values: Mapping[str, str]
) -> str:
    """A template of the folder `slurm` with its @NAME@s replaced: by `values`, or by what all batch scripts have.

    size: the options of sbatch that say how much the job needs.
    """
    options = [
        f"--job-name={job.name}",
        *size,
        *_chosen(launch),
        f"--signal=B:USR2@{launch.stop_lead_s}",
        "--requeue",
        "--open-mode=append",
        f"--output={_quoted(f'{_pattern(job.logs)}/{log_name}')}",
        f"--chdir={_quoted(job.workdir)}",
        "--export=ALL",
        *launch.slurm.options,
    ]
    for option in options:
        require_no_control_characters("launch.slurm: the option", option)  # a line break would end the comment
    all_values = {
        "OPTIONS": "\n".join(f"#SBATCH {option}" for option in options),
        "FOLDER": shlex.quote(job.run_dir),
        "PYTHON": shlex.quote(job.python),
        "EXPORTS": _exports(job),
        "SETUP": _setup_lines(launch.setup),
        "MAX_STARTS": str(job.max_starts),
        "LEAD": str(launch.stop_lead_s),
        **values,
    }
    text = files("foretrain.slurm").joinpath(template).read_text(encoding="utf-8")
    return re.sub("@([A-Z_]+)@", lambda match: all_values[match[1]], text)


def _exports(job: Job) -> str:
    """The shell lines that set the ranks' environment."""
    public = [f"export {name}={shlex.quote(value)}" for name, value in job.env if name not in job.secrets]
    path = shlex.quote(str(job.folder / SECRETS))
    # Without the secrets, a server may refuse the ranks, and a job that is refused is not started again.
    secret = [f'patiently . {path} || {{ say {path}" cannot be read"; exit 1; }}'] if job.secrets else []
    return "\n".join([*public, *secret])


def _setup_lines(lines: Sequence[str]) -> str:
    """The lines of launch.setup. They may use variables that are not set; one that fails ends the job."""
    checked = [f"{{\n{line}\n}} || fail {shlex.quote(f'launch.setup failed: {line}')}" for line in lines]
    return "\n".join(["set +u", *checked, "set -u", ""]) if lines else ""


def _nodes_lines(numbers: Sequence[int], ranks_per_node: int) -> str:
    """The shell lines that choose the number of nodes of an elastic run: `numbers` are those that it can use."""
    return f"""
# --- The size ---
# This start has the largest of these numbers of nodes that Slurm has given to the job. Other nodes stay idle.
nodes=
for number in {" ".join(map(str, numbers))}; do
    [ "$number" -gt "$SLURM_JOB_NUM_NODES" ] || nodes=$number
done
export SLURM_NTASKS=$((nodes * {ranks_per_node}))
"""


def _step_nodes(ranks_per_node: int) -> str:
    """A line with the options of srun for the size that the lines of `_nodes_lines` have chosen."""
    size = f'--relative=0 --nodes="$nodes" --ntasks="$SLURM_NTASKS" --ntasks-per-node={ranks_per_node}'
    return f" \\\n        {size}"


def secrets(job: Job) -> str:
    """The content of the file SECRETS."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in job.secrets.items())


def _chosen(launch: LaunchConfig) -> list[str]:
    """The options of sbatch that `launch.slurm` sets."""
    slurm = launch.slurm
    named = {"partition": slurm.partition, "account": slurm.account, "qos": slurm.qos, "time": slurm.time}
    return [f"--{name}={value}" for name, value in named.items() if value is not None]


def _pattern(path: Path) -> str:
    """A path for a pattern of file names, in which Slurm must replace nothing."""
    return str(path).replace("%", "%%")


def _quoted(text: str) -> str:
    """A path in the quotes of an #SBATCH line. Raises ValueError for characters that Slurm does not accept there."""
    if re.search(r'[\\"\n]', text):
        raise ValueError(
            f"{text!r}: Slurm accepts no path with a backslash, a double quote or a line break: choose another path"
        )
    return f'"{text}"'
