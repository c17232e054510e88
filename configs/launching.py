"""The knobs of starting a run on a cluster: `launch` in a config. None of them changes the curve."""

import re
from dataclasses import dataclass, field

from foretrain.configs.checks import require, require_positive

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\*?|[A-Za-z_][A-Za-z0-9_]*=[^\n\0]*")
SECRET = re.compile(r"KEY|TOKEN(?!IZERS)|SECRET|PASS|CREDENTIAL|PROXY|AUTH|COOKIE|_PAT$", re.IGNORECASE)
"""Names of variables whose values are not written where others can read them."""


@dataclass
class SlurmConfig:
    """Options of the Slurm job; None: as the cluster does by default."""

    partition: str | None = None
    """Partition to run in."""
    account: str | None = None
    """Account to charge."""
    qos: str | None = None
    """Quality of service."""
    time: str | None = None
    """Time limit of one start, as Slurm writes it (24:00:00, 3-12); a run goes on in the next start."""
    options: list[str] = field(default_factory=list)
    """Further options of sbatch, as in [--constraint=a100, --exclusive]."""

    def __post_init__(self) -> None:
        for name in ("partition", "account", "qos", "time"):
            value = getattr(self, name)
            require(
                value is None or re.fullmatch(r"[\w.:,+@-]+", value) is not None,
                f"slurm.{name} = '{value}' has characters that Slurm does not take there",
            )
        for option in self.options:
            require(
                option.startswith("-") and "\n" not in option,
                f"slurm.options: '{option}' must begin with '-' and stand on one line",
            )
            require(
                not option.startswith(("--array", "-a")),
                f"slurm.options: '{option}' would make several jobs of one run: leave it out",
            )


@dataclass
class RayConfig:
    """Where the Ray job goes, and how long it waits."""

    address: str | None = None
    """The cluster's dashboard, as in http://head:8265; None: a cluster of this machine, started for this run alone."""
    wait_s: float = 600.0
    """So long the job waits for nodes that are busy, or not there, before it says what is missing and fails."""

    def __post_init__(self) -> None:
        require_positive(wait_s=self.wait_s)
        require(
            self.address is None or self.address.startswith(("http://", "https://")),
            f"ray.address = '{self.address}' must be the dashboard's, and begin with http:// or https://",
        )


@dataclass
class LaunchConfig:
    """How a cluster starts the run, and starts it again."""

    cpus_per_rank: int = 8
    """CPU cores that the cluster sets apart for each rank."""
    env: list[str] = field(
        default_factory=lambda: [
            *("HOME", "USER", "LANG", "PATH", "LD_LIBRARY_PATH", "TZ"),
            *("NCCL_*", "GLOO_*", "TORCH_*", "CUDA_*", "OMP_*", "FORETRAIN_*", "HF_*", "AWS_*", "GOOGLE_*"),
            *("http_proxy", "https_proxy", "no_proxy"),
        ]
    )
    """What the ranks' environment holds: NAME, taken from the shell that launches (NAME*: all that begin so), or
    NAME=value. Nothing else is carried over."""
    setup: list[str] = field(default_factory=list)
    """Shell lines before the ranks of a Slurm job start, as in [module load cuda]."""
    stop_lead_s: int = 300
    """So long before its time limit a job is told to write a checkpoint and to queue again. Slurm counts in minutes."""
    max_starts: int = 3
    """Starts in a row that end without a newer checkpoint than they began with, before the job gives up."""

    slurm: SlurmConfig = field(default_factory=SlurmConfig)
    """Slurm's own options."""
    ray: RayConfig = field(default_factory=RayConfig)
    """Ray's own options."""

    def __post_init__(self) -> None:
        require_positive(cpus_per_rank=self.cpus_per_rank, stop_lead_s=self.stop_lead_s, max_starts=self.max_starts)
        for entry in self.env:
            require(VARIABLE.fullmatch(entry) is not None, f"env: '{entry}' is none of NAME, NAME* and NAME=value")
            name, is_set, _ = entry.partition("=")
            require(
                not (is_set and SECRET.search(name)),
                f"env: {name} looks like a secret, and a config is no place for one: set it in your shell, and write "
                f"{name} alone",
            )
        for line in self.setup:
            require("\0" not in line, "setup: a line cannot hold a zero byte")
