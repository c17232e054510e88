"""The `launch` section of a config: how a cluster starts a run. No setting in it changes the loss curve."""

import re
from dataclasses import dataclass, field

from foretrain.configs.checks import require, require_positive
from foretrain.configs.fields import setting
from foretrain.printable import HAS_PASSWORD

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\*?|[A-Za-z_][A-Za-z0-9_]*=[^\n\0]*")
SECRET = re.compile(
    r"KEY|TOKEN(?!IZERS)|SECRET|PASS|CREDENTIAL|PROXY|AUTH|COOKIE|_PAT$|^FSSPEC_|CONNECTION_STR|_SAS(_|$)|DATABASE_UR[IL]"
    r"|(^|_)DSN(_|$)|WEBHOOK",
    re.IGNORECASE,
)
"""Names of variables with secret values."""
PUBLIC = re.compile(
    r"HOME|USER|LANG|PATH|LD_LIBRARY_PATH|TZ|TMPDIR|PYTHON(PATH|SAFEPATH|UNBUFFERED)"
    r"|(NCCL|GLOO|TORCH|CUDA|OMP|PYTORCH|TRITON|UCX|FI|FORETRAIN)_\w*"
)
"""Names of variables whose values others may see, since they describe a machine and how torch uses it."""


def is_private(name: str, value: str) -> bool:
    """Whether a variable is kept from files that others can read: any but those of PUBLIC, and all with a password."""
    return PUBLIC.fullmatch(name) is None or bool(SECRET.search(name) or HAS_PASSWORD.search(value))


def size_range(elastic: str) -> range:
    """The sizes that `launch.elastic` names. Raises ValueError if it is not MIN:MAX with 1 <= MIN <= MAX."""
    found = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", elastic)
    sizes = range(int(found[1]), int(found[2]) + 1) if found else range(0)
    require(len(sizes) > 0, f"elastic = '{elastic}' must be MIN:MAX, two data-parallel sizes such as 2:8")
    return sizes


@dataclass
class SlurmConfig:
    """Options of the Slurm job; None: the default of the cluster."""

    partition: str | None = None
    """Partition to run in."""
    account: str | None = None
    """Account to charge."""
    qos: str | None = None
    """Quality of service."""
    time: str | None = None
    """Time limit of one start in Slurm's notation (24:00:00, 3-12); the next start resumes the run."""
    options: list[str] = field(default_factory=list)
    """Other options of sbatch, such as [--constraint=a100, --exclusive]."""

    def __post_init__(self) -> None:
        for name in ("partition", "account", "qos", "time"):
            value = getattr(self, name)
            require(
                value is None or re.fullmatch(r"[\w.:,+@-]+", value) is not None,
                f"slurm.{name} = '{value}' may only have letters, digits and the characters _ . : , + @ -",
            )
        for option in self.options:
            require(
                option.startswith("-") and "\n" not in option,
                f"slurm.options: '{option}' must begin with '-' and be one line",
            )
            require(
                not option.startswith(("--array", "-a")),
                f"slurm.options: '{option}' would start several jobs for one run: remove it",
            )


@dataclass
class RayConfig:
    """The Ray cluster, and how long a job waits for it."""

    address: str | None = None
    """Address of the cluster's dashboard, such as http://head:8265; None: a cluster on this machine, started for this
    run only."""
    wait_s: float = 600.0
    """Seconds that the job waits for busy or missing nodes. Then it reports what is missing, and fails."""

    def __post_init__(self) -> None:
        require_positive(wait_s=self.wait_s)
        require(
            self.address is None or self.address.startswith(("http://", "https://")),
            f"ray.address = '{self.address}' must be the address of the dashboard: begin it with http:// or https://",
        )


@dataclass
class LaunchConfig:
    """How a cluster starts the run, and restarts it."""

    cpus_per_rank: int = 8
    """CPU cores that the cluster reserves for each rank."""
    env: list[str] = field(
        default_factory=lambda: [
            *("HOME", "USER", "LANG", "PATH", "LD_LIBRARY_PATH", "TZ"),
            *("NCCL_*", "GLOO_*", "TORCH_*", "CUDA_*", "OMP_*", "FORETRAIN_*", "HF_*", "AWS_*", "GOOGLE_*"),
            *("http_proxy", "https_proxy", "no_proxy"),
        ]
    )
    """Environment variables of the ranks: NAME is copied from the shell that launches, NAME* copies all variables that
    begin with NAME, and NAME=value sets one. TMPDIR, the variables that tune torch on GPUs and their networks
    (PYTORCH_*, TRITON_*, UCX_*, FI_*), and the configuration of fsspec (FSSPEC_*) are always copied. The ranks get no
    other variables."""
    setup: list[str] = field(default_factory=list)
    """Shell commands that run before the ranks of a Slurm job start, such as [module load cuda]."""
    stop_lead_s: int = 300
    """Seconds before its time limit at which a job is asked to write a checkpoint and to queue again. Slurm rounds to
    minutes."""
    max_starts: int = 3
    """Consecutive starts without a new checkpoint before the job gives up."""
    elastic: str | None = setting(None, changes_curve=False, since="0.2.0")
    """Smallest and largest data-parallel size, as MIN:MAX: under `foretrain launch`, each start has the largest that
    divides the batch and for which there are ranks. parallel.dp must be null. None: the size does not change.
    `foretrain train` ignores it: it starts as many replicas as parallel.dp says, and one if that is null."""

    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    """Options of Slurm."""
    ray: RayConfig = field(default_factory=RayConfig)
    """Options of Ray."""

    def __post_init__(self) -> None:
        require_positive(cpus_per_rank=self.cpus_per_rank, stop_lead_s=self.stop_lead_s, max_starts=self.max_starts)
        if self.elastic is not None:
            size_range(self.elastic)
        for entry in self.env:
            require(
                VARIABLE.fullmatch(entry) is not None,
                f"env: '{entry}' is not an entry: write NAME, NAME* or NAME=value",
            )
            name, is_set, value = entry.partition("=")
            require(
                not (is_set and (SECRET.search(name) or HAS_PASSWORD.search(value))),
                f"env: {name} looks like a secret, and others can read a config: set it in your shell, and write "
                f"{name} without a value",
            )
        for line in self.setup:
            require("\0" not in line, "setup: remove the zero byte from the line")
