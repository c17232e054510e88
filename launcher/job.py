"""A job as plain data: what to start, the same for every launcher."""

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from foretrain.configs.checks import require_no_control_characters
from foretrain.configs.launching import LaunchConfig, is_private
from foretrain.configs.schema import Config
from foretrain.launcher.elastic import Sizes, elastic_sizes
from foretrain.parallel.cuda_environment import cuda_variables
from foretrain.parallel.layout import Layout, LayoutError
from foretrain.trainer.run.folder import CODE, CONFIG_FILE, LOGS


@dataclass(frozen=True)
class Job:
    """Ranks that run one command, on nodes that see the same files at the same paths."""

    name: str
    """A label of letters, digits, `.`, `_` and `-`."""
    run_dir: str
    """The run's folder, absolute."""
    workdir: str
    """The working directory of the ranks, to which paths of the config are relative. Absolute."""
    python: str
    """The Python interpreter. Absolute."""
    num_nodes: int
    ranks_per_node: int
    cpus_per_rank: int
    gpus_per_node: int
    """0: the job asks for no GPUs."""
    env: tuple[tuple[str, str], ...]
    """The complete environment of the ranks, sorted by name, without RANK, WORLD_SIZE and so on."""
    max_starts: int
    """Consecutive starts without a new checkpoint before the job gives up."""
    train_options: tuple[str, ...] = ()
    """Further options of `foretrain train`."""
    sizes: Sizes | None = None
    """The data-parallel sizes of an elastic run, whose nodes above are those of the largest one."""
    device: str = "auto"
    """`train.device` of the config."""
    set_env: tuple[str, ...] = ()
    """Names in `env` whose values are in the config, and so no secrets."""

    @property
    def num_ranks(self) -> int:
        """The total number of ranks."""
        return self.num_nodes * self.ranks_per_node

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.run_dir)

    @property
    def code(self) -> Path:
        """The folder with the copy of the code that the job runs."""
        return self.folder / CODE

    @property
    def logs(self) -> Path:
        """The folder of the ranks' logs."""
        return self.folder / LOGS

    @property
    def command(self) -> tuple[str, ...]:
        """The command of each rank, which finds RANK, WORLD_SIZE and so on in its environment."""
        train = (self.python, "-m", "foretrain", "train", str(self.folder / CONFIG_FILE))
        return (*train, *self.train_options)

    @property
    def secrets(self) -> dict[str, str]:
        """The part of `env` that is kept from files that others can read: all that does not describe a machine."""
        return {name: value for name, value in self.env if name not in self.set_env and is_private(name, value)}

    def without_secrets(self) -> "Job":
        """The same job, without the values of `secrets`, so that it can be shown."""
        env = {**dict(self.env), **dict.fromkeys(self.secrets, "(not shown)")}
        return replace(self, env=tuple(env.items()))

    def to_json(self) -> str:
        """The job as text, for `from_json`."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """The job that `to_json` wrote."""
        values = json.loads(text)
        values["env"] = tuple((name, value) for name, value in values["env"])
        values["train_options"] = tuple(values["train_options"])
        values["set_env"] = tuple(values.get("set_env", ()))
        sizes = values["sizes"]
        values["sizes"] = sizes and Sizes(tuple(sizes["allowed"]), sizes["ranks_per_replica"])
        return cls(**values)


def make_job(config: Config, *, workdir: Path, environ: Mapping[str, str], train_options: Sequence[str] = ()) -> Job:
    """The job of a config on the nodes that its `cluster` names, launched from `workdir` in the environment `environ`.

    Raises ValueError if the layout does not fit the nodes, or if a folder has a name that cannot be in a script.
    """
    layout = check_nodes(config)
    require_no_control_characters("the working directory", str(workdir))
    run_dir = (workdir / config.run_dir).absolute()
    cluster, launch = config.cluster, config.launch
    num_gpus = 0 if config.train.device == "cpu" else cluster.gpus_per_node
    env = rank_environment(run_dir / CODE, launch, environ, plugin_path(config, workdir, environ))
    if num_gpus:
        env = tuple(sorted((*env, *cuda_variables(layout, dict(env)).items())))
    return Job(
        name=re.sub(r"[^\w.-]+", "-", run_dir.name) or "foretrain",
        run_dir=str(run_dir),
        workdir=str(workdir.absolute()),
        python=sys.executable,
        num_nodes=cluster.num_nodes,
        ranks_per_node=cluster.gpus_per_node,
        cpus_per_rank=launch.cpus_per_rank,
        gpus_per_node=num_gpus,
        env=env,
        max_starts=launch.max_starts,
        train_options=tuple(train_options),
        sizes=elastic_sizes(config),
        device=config.train.device,
        set_env=tuple(sorted(environment(launch.env, {})[1])),
    )


def code_variables(code: Path, python_path: Sequence[str] = ()) -> dict[str, str]:
    """The variables that have every Python process of a job import the copy of the code in `code`.

    python_path: further folders of modules. PYTHONSAFEPATH: a `foretrain.py` in the working directory must not hide the
    copy.
    """
    return {"PYTHONPATH": os.pathsep.join([str(code), *python_path]), "PYTHONSAFEPATH": "1"}


def plugin_path(config: Config, workdir: Path, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The folders in which the config's plugins may be: those of PYTHONPATH, absolute; none if it lists no plugins."""
    folders = environ.get("PYTHONPATH", "").split(os.pathsep) if config.plugins else []
    return tuple(str((workdir / folder).absolute()) for folder in folders if folder)


def rank_environment(
    code: Path, launch: LaunchConfig, environ: Mapping[str, str], python_path: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    """The environment of a cluster's ranks: what `launch.env` says, and what they need to run the copy of the code."""
    carried, settings = environment(launch.env, environ)
    threads = {"OMP_NUM_THREADS": str(launch.cpus_per_rank), "PYTHONUNBUFFERED": "1"}
    return tuple(sorted({**carried, **code_variables(code, python_path), **threads, **settings}.items()))


_ALWAYS_CARRIED = ("TMPDIR", "PYTORCH_*", "TRITON_*", "UCX_*", "FI_*", "FSSPEC_*")
"""They are not in the default of `launch.env`: a new default would change the hash of every config."""


def environment(wanted: Sequence[str], environ: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The variables that `launch.env` takes from `environ`, and those that it sets."""
    settings = dict(entry.split("=", 1) for entry in wanted if "=" in entry)
    patterns = [*_ALWAYS_CARRIED, *(entry for entry in wanted if "=" not in entry)]
    carried = {
        name: value for name, value in environ.items() if any(fnmatchcase(name, pattern) for pattern in patterns)
    }
    return carried, settings


def check_nodes(config: Config) -> Layout:
    """The layout of a config, which must have a rank for every GPU of the nodes, and no tp group that straddles nodes.

    Raises LayoutError otherwise.
    """
    cluster = config.cluster
    num_ranks = cluster.num_nodes * cluster.gpus_per_node
    try:
        layout = Layout.from_config(config.parallel, num_ranks)
    except LayoutError as error:
        raise LayoutError(
            f"{cluster.num_nodes} nodes of {cluster.gpus_per_node} GPUs are {num_ranks} ranks, one for each GPU "
            f"(--nodes and --gpus-per-node, or cluster.num_nodes and cluster.gpus_per_node, say how many): {error}"
        ) from None
    if cluster.gpus_per_node % layout.tp and layout.tp % cluster.gpus_per_node:
        raise LayoutError(
            f"parallel.tp = {layout.tp} straddles nodes of {cluster.gpus_per_node} GPUs unevenly: choose a tp that "
            f"divides {cluster.gpus_per_node}, or another --gpus-per-node"
        )
    return layout
