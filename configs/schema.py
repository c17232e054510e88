"""Every knob of a run: its type, its meaning, its only default, and the values it refuses; or the file that has it.

A config is a tree of these dataclasses. `configs/load.py` fills it from YAML and overrides; `__post_init__` refuses
values that are impossible on their own. What is impossible only together (a layout against a model) is refused in
`parallel/layout.py`. Raises ValueError with a message that says which value to change.
"""

from dataclasses import dataclass, field
from typing import Literal

from foretrain.configs.checks import require, require_positive
from foretrain.configs.data import DataConfig
from foretrain.configs.fields import setting
from foretrain.configs.launching import LaunchConfig
from foretrain.configs.model import ModelConfig
from foretrain.configs.objective import ObjectiveConfig
from foretrain.configs.optimization import OptimizerConfig, ScheduleConfig
from foretrain.configs.parametrization import MupConfig


@dataclass
class ParallelConfig:
    """How a model and a batch are spread over ranks."""

    dp: int | None = None
    """Data-parallel size; None: what is left of the number of ranks (world size / (tp * cp * pp))."""
    tp: int = 1
    """Tensor-parallel size: divides heads and feed-forward width; the vocabulary is padded to a multiple of it."""
    cp: int = 1
    """Context-parallel size: ranks that share out a sample's positions; in attention they exchange them for heads."""
    pp: int = 1
    """Pipeline-parallel size: ranks that hold consecutive layers."""
    vpp: int = 1
    """Virtual stages on each pipeline rank."""
    sp: bool = False
    """Sequence parallelism: norms and residuals are split along the sequence over the tensor-parallel ranks."""
    schedule: Literal["1f1b", "interleaved_1f1b", "interleaved_zb", "zbv"] = "1f1b"
    """Pipeline schedule. The interleaved ones need vpp >= 2, zbv exactly 2."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """ZeRO: 1 shards optimizer state over dp, 2 gradients too, 3 parameters too. 2 and 3 need pp = 1."""
    offload_optimizer: bool = False
    """Keep fp32 masters and moments in host memory, and update them there; needs zero_stage of 1 or more."""
    offload_params: bool = False
    """Keep parameters in host memory between uses; needs zero_stage = 3."""
    overlap_comm: bool = False
    """Reduce gradients while backward goes on; needs zero_stage of 1 or more and pp = 1."""
    balance: Literal["even", "flops", "measured"] = "flops"
    """Blocks of each stage: evenly many, or so that the slowest stage is as fast as can be. The cost of blocks,
    embedding and head is counted in FLOPs, or measured on this machine when the run starts."""
    stage_layers: list[int] | None = None
    """Blocks of each of the pp * vpp stages, by hand; None: as `balance` says."""
    timeout_s: float = 600.0
    """A collective that waits longer than this ends the run with an error."""

    def __post_init__(self) -> None:
        require_positive(dp=self.dp, tp=self.tp, cp=self.cp, pp=self.pp, vpp=self.vpp, timeout_s=self.timeout_s)
        require(
            self.stage_layers is None or min(self.stage_layers, default=0) > 0,
            f"stage_layers = {self.stage_layers}: every stage needs a block",
        )
        for name, least in (("offload_optimizer", 1), ("offload_params", 3), ("overlap_comm", 1)):
            require(
                not getattr(self, name) or self.zero_stage >= least,
                f"{name} needs zero_stage of {least} or more, and zero_stage = {self.zero_stage}: change one",
            )
        require(
            not self.overlap_comm or self.pp == 1,
            f"overlap_comm reduces gradients during backward, which pipelines (pp = {self.pp}) do after it: "
            "set overlap_comm=false or pp=1",
        )


@dataclass
class TrainConfig:
    """The budget and how a step is made of samples."""

    num_tokens: int = 1_000_000
    """Budget of training tokens; the number of steps is this / (global_batch_size * seq_len), rounded up."""
    global_batch_size: int = 16
    """Samples of one optimizer step, over all ranks."""
    micro_batch_size: int = setting(1, changes_curve=False)
    """Samples of one forward pass on one rank; must divide global_batch_size / dp."""
    seed: int = 0
    """Seed of the initial weights."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: compute in bfloat16, with fp32 masters, moments and gradient accumulation."""
    device: Literal["auto", "cpu", "cuda"] = setting("auto", changes_curve=False)
    """auto: cuda where there is one."""
    eval_every: int = setting(100, changes_curve=False)
    """Steps between evaluations on held-out samples; 0: only at the end."""
    eval_samples: int = setting(64, changes_curve=False)
    """Held-out samples of one evaluation: always the same ones; 0: no evaluation."""
    recompute: Literal["none", "selective", "full"] = setting("none", changes_curve=False)
    """Activations not kept for backward but computed again. selective: attention between its matrices, and the
    feed-forward activation; full: everything inside a block."""
    recompute_layers: int | None = setting(None, changes_curve=False)
    """Recompute in the first this many blocks only; None: in all."""
    check_every: int = setting(100, changes_curve=False)
    """Steps between checks that what must be equal on several ranks is equal; checkpoints are checked too; 0: never."""
    checkpoint_every: int = setting(0, changes_curve=False)
    """Steps between checkpoints; 0: only at the end."""
    keep_checkpoints: int = setting(2, changes_curve=False)
    """Newest checkpoints kept; 0: all."""
    log_every: int = setting(10, changes_curve=False)
    """Steps between lines on the terminal; every step is in the metrics file."""
    callbacks: list[str] = setting(default_factory=list, changes_curve=False, since="0.2.0")
    """Callbacks to add to the run, by the names under which plugins registered them."""
    sinks: list[str] = setting(default_factory=lambda: ["terminal", "tensorboard"], changes_curve=False, since="0.2.0")
    """What receives the metrics, besides the file metrics.jsonl."""
    stop_after: int | None = setting(None, changes_curve=False)
    """Save and stop after this step, leaving the schedule as it is: to split a run over jobs, and for tests."""

    def __post_init__(self) -> None:
        require_positive(
            num_tokens=self.num_tokens,
            global_batch_size=self.global_batch_size,
            micro_batch_size=self.micro_batch_size,
            log_every=self.log_every,
            stop_after=self.stop_after,
            recompute_layers=self.recompute_layers,
        )
        for name in ("eval_every", "eval_samples", "check_every", "checkpoint_every", "keep_checkpoints"):
            require(getattr(self, name) >= 0, f"{name} = {getattr(self, name)} must not be negative")


@dataclass
class SampleConfig:
    """Text generated at the end of a run."""

    prompts: list[str] = field(default_factory=list)
    """Each is continued once the run is done; none: nothing is generated."""
    num_tokens: int = 64
    """Tokens generated for each prompt."""
    temperature: float = 0.8
    """Logits are divided by it; 0: always the likeliest token."""
    top_k: int = 40
    """Sample among the likeliest this many; 0: among all."""
    seed: int = 0
    """Seed of sampling."""

    def __post_init__(self) -> None:
        require_positive(num_tokens=self.num_tokens)
        for name in ("temperature", "top_k"):
            require(getattr(self, name) >= 0, f"{name} = {getattr(self, name)} must not be negative")


@dataclass
class ClusterConfig:
    """The machines that a run is meant for; a run on this machine alone ignores it."""

    num_nodes: int = 1
    """Nodes of the job."""
    gpus_per_node: int = 8
    """Accelerators of one node, and so its ranks: one for each, on CPUs too."""
    gpu_memory_gib: float = 80.0
    """Memory of one accelerator, GiB."""
    gpu_peak_tflops: float = 312.0
    """Datasheet peak of dense bf16 matrix products, TFLOP/s."""
    intra_node_gb_s: float = 300.0
    """Bandwidth between accelerators of a node, each direction, GB/s (NVLink 3: 300)."""
    inter_node_gb_s: float = 25.0
    """Bandwidth of an accelerator to the network, GB/s (200 Gbit/s HDR: 25)."""

    def __post_init__(self) -> None:
        require_positive(**vars(self))


@dataclass
class Config:
    """A whole run."""

    run_dir: str = setting("runs/run", changes_curve=False)
    """Folder of the run: resolved config, metrics, checkpoints, plots."""
    plugins: list[str] = setting(default_factory=list, changes_curve=False, since="0.2.0")
    """Modules to import before the run is built: each registers components that other keys then name."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    data: DataConfig = field(default_factory=DataConfig)
    """The corpus."""
    parallel: ParallelConfig = setting(default_factory=ParallelConfig, changes_curve=False)
    """The layout."""
    mup: MupConfig = field(default_factory=MupConfig)
    """What holds at other widths and depths."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimizer."""
    objective: ObjectiveConfig = setting(default_factory=ObjectiveConfig, since="0.2.0")
    """What the model learns from a sample."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Learning-rate schedule."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Budget, batch, precision, cadence."""
    sample: SampleConfig = setting(default_factory=SampleConfig, changes_curve=False)
    """Text at the end."""
    cluster: ClusterConfig = setting(default_factory=ClusterConfig, changes_curve=False)
    """The machines."""
    launch: LaunchConfig = setting(default_factory=LaunchConfig, changes_curve=False)
    """How a cluster starts the run."""
