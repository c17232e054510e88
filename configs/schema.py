"""Every setting of a run: its type, meaning, default and limits. Large sections are in the files beside this one.

A config is a tree of these dataclasses. `configs/load.py` fills it from YAML and overrides. `__post_init__` raises
ValueError, which says what to change, if a section is impossible on its own. What is impossible only in combination,
such as a layout that does not fit the model, is refused in `parallel/layout.py`.
"""

from dataclasses import dataclass, field
from typing import Literal

from foretrain.configs.checks import (
    FLOAT32,
    PASSWORD_ADVICE,
    require,
    require_no_control_characters,
    require_not_negative,
    require_positive,
    require_seeds,
)
from foretrain.configs.data import DataConfig
from foretrain.configs.fields import setting
from foretrain.configs.launching import LaunchConfig
from foretrain.configs.model import ModelConfig
from foretrain.configs.optimization import ObjectiveConfig, OptimizerConfig, ScheduleConfig
from foretrain.configs.parametrization import MupConfig
from foretrain.printable import HAS_PASSWORD


@dataclass
class ParallelConfig:
    """The layout: how the model and the batch are divided over ranks."""

    dp: int | None = None
    """Data-parallel size; None: world size / (tp * cp * pp)."""
    tp: int = 1
    """Tensor-parallel size. It must divide the heads and the feed-forward width; the vocabulary is padded."""
    cp: int = 1
    """Context-parallel size: ranks that divide the positions of a sample; inside attention, they divide heads."""
    pp: int = 1
    """Pipeline-parallel size: ranks that divide the blocks."""
    vpp: int = 1
    """Pipeline stages on each pipeline rank."""
    sp: bool = False
    """Sequence parallelism: tensor-parallel ranks divide the sequence in norms and residuals."""
    schedule: Literal["1f1b", "interleaved_1f1b", "interleaved_zb", "zbv"] = "1f1b"
    """Pipeline schedule. The interleaved ones need vpp >= 2, and zbv needs vpp = 2."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """ZeRO stage. 1: optimizer state is sharded over dp; 2: gradients too; 3: parameters too. 2 and 3 need pp = 1."""
    offload_optimizer: bool = False
    """Keep fp32 masters and moments in host memory, and update them there; needs zero_stage >= 1."""
    offload_params: bool = False
    """Keep parameters in host memory between uses; needs zero_stage = 3."""
    overlap_comm: bool = False
    """Reduce gradients and gather weights while ZeRO 3 computes; needs pp = 1. ZeRO 0 to 2 always do, in pipelines
    too."""
    balance: Literal["even", "flops", "measured"] = "flops"
    """How blocks are divided over pipeline stages. even: equal numbers. flops, measured: the slowest stage is as fast
    as possible, where the costs of blocks, embedding and head are FLOPs, or times measured when the run starts."""
    stage_layers: list[int] | None = None
    """Number of blocks of each of the pp * vpp stages; None: `balance` decides."""
    timeout_s: float = 600.0
    """Seconds that a collective may wait before the run ends with an error."""
    hang_s: float = setting(120.0, since="0.2.0")
    """Seconds that every step may take. If one takes longer than that, and than five times what is usual, and nothing
    moves any more, the ranks report where each of them is, and end to be started again; 0: never."""

    def __post_init__(self) -> None:
        require_positive(dp=self.dp, tp=self.tp, cp=self.cp, pp=self.pp, vpp=self.vpp, timeout_s=self.timeout_s)
        require_not_negative(self, "hang_s")
        require(
            self.stage_layers is None or min(self.stage_layers, default=0) > 0,
            f"stage_layers = {self.stage_layers}: give every stage at least one block",
        )
        for name, least in (("offload_optimizer", 1), ("offload_params", 3), ("overlap_comm", 1)):
            require(
                not getattr(self, name) or self.zero_stage >= least,
                f"{name} needs zero_stage >= {least}, and zero_stage = {self.zero_stage}: change one of them",
            )
        require(
            not self.overlap_comm or self.pp == 1,
            f"overlap_comm is for ZeRO 3, which needs pp = 1 (pp = {self.pp}), and ZeRO 1 reduces gradients during the "
            "backward pass without it: set overlap_comm=false or pp=1",
        )


@dataclass
class TrainConfig:
    """The budget, the batch, and what happens every few steps."""

    num_tokens: int = 1_000_000
    """Training tokens of the run. The number of steps is num_tokens / (global_batch_size * seq_len), rounded up."""
    global_batch_size: int = 16
    """Samples of one optimizer step on all ranks together."""
    micro_batch_size: int = setting(1, changes_curve=False)
    """Samples of one forward pass on one rank; must divide global_batch_size / dp."""
    seed: int = 0
    """Seed of the initial weights."""
    init_from: str | None = setting(None, since="0.2.0")
    """A run folder or a checkpoint with whose weights a new run starts, from the beginning of its data and schedule."""
    init_optimizer: bool = setting(False, since="0.2.0")
    """Start from the state of the optimizer in `init_from`, too."""
    branch_from: str | None = setting(None, since="0.2.0")
    """A run folder or a checkpoint that a new run continues from its step, with other settings: a longer budget,
    another learning rate, a cooldown, other data. The new run has a folder, and a curve, of its own."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: computation in bfloat16, with fp32 masters, moments and gradient accumulation."""
    device: Literal["auto", "cpu", "cuda"] = setting("auto", changes_curve=False)
    """auto: cuda if the machine has a GPU."""
    eval_every: int = setting(100, changes_curve=False)
    """Steps between evaluations on held-out samples; 0: only at the end."""
    eval_samples: int = setting(64, changes_curve=False)
    """Held-out samples of every evaluation, spread evenly over the held-out set, always the same; 0: no evaluation."""
    eval_standard_error: float | None = setting(None, changes_curve=False, since="0.2.0")
    """Standard error of the held-out loss, in nats per token, for which evaluations have as many samples as it needs,
    `eval_samples` at the least and all held-out samples at the most. The first evaluation of the run finds that number.
    None: `eval_samples` is the number."""
    eval_tasks: list[str] = setting(default_factory=list, changes_curve=False, since="0.2.0")
    """Names of tasks on which every evaluation also measures the model: how likely the right answers to their problems
    are, and how many of them are the model's own. which_word and last_word are made of the held-out text, copy,
    addition and recall of random numbers."""
    eval_problems: int = setting(128, changes_curve=False, since="0.2.0")
    """Problems of each of `eval_tasks`, always the same ones."""
    recompute: Literal["none", "selective", "full"] = setting("none", changes_curve=False)
    """Activations that the backward pass computes again instead of keeping them. selective: those inside attention and
    of the feed-forward activation; full: all inside a block."""
    recompute_layers: int | None = setting(None, changes_curve=False)
    """Number of blocks, from the first, that recompute; None: all."""
    compile: bool = setting(False, changes_curve=False, since="0.2.0")
    """Compute the blocks by code that torch.compile makes of them in the first step, and keeps for later starts. It
    needs a C++ compiler, and zero_stage <= 2."""
    check_every: int = setting(100, changes_curve=False)
    """Steps between checks that replicated state is equal on all ranks; every checkpoint is checked too. 0: never."""
    replay_every: int = setting(0, changes_curve=False, since="0.2.0")
    """Steps between replays, which compute the forward and backward passes of a step on several ranks, and compare
    the gradients bit by bit; the step after a spike is replayed, too. It takes as long as two steps. 0: never."""
    check_memory: bool = setting(False, changes_curve=False, since="0.2.0")
    """Check in each step that the optimizer's state and the weights that it updates have not changed since the update
    before. It reads all of them twice in each step."""
    checkpoint_every: int = setting(0, changes_curve=False)
    """Steps between checkpoints; 0: none by steps."""
    checkpoint_minutes: float = setting(30.0, changes_curve=False, since="0.2.0")
    """Minutes after which a checkpoint is written, counted from the one before; 0: none by time."""
    checkpoint_in_background: bool = setting(True, changes_curve=False, since="0.2.0")
    """Train on while a checkpoint is written. The copy of its state that every rank then has in host memory is made by
    the first checkpoint, and kept."""
    on_non_finite: Literal["stop", "skip", "rollback"] = setting("stop", since="0.2.0")
    """What happens at a step whose loss or gradient norm is not finite; its update is never made. stop: the run ends;
    skip: it continues with the next step; rollback: it continues from the newest checkpoint at a multiple of
    `checkpoint_every`, or the newest if there is none, without the samples from there up to this step."""
    on_spike: Literal["ignore", "warn", "skip", "rollback"] = setting("warn", since="0.2.0")
    """What happens at a step whose loss or gradient norm is far above those before it; `spike_threshold` says how far.
    warn: only a message; skip and rollback: no update, and then as in `on_non_finite`."""
    spike_threshold: float = setting(10.0, since="0.2.0")
    """Robust standard deviations above the median of the last 64 steps from which a loss is a spike; for the logarithm
    of a gradient norm, twice as many."""
    max_skips: int = setting(10, changes_curve=False, since="0.2.0")
    """Steps in a row whose update may be skipped before the run ends."""
    max_rollbacks: int = setting(3, changes_curve=False, since="0.2.0")
    """Rollbacks to the same checkpoint before the run ends."""
    checkpoint_folder: str | None = setting(None, changes_curve=False, since="0.2.0")
    """Folder of the checkpoints: a path, or a URL that fsspec knows, such as s3://BUCKET/NAME; None: in run_dir. It is
    for one run."""
    keep_checkpoints: int = setting(2, changes_curve=False)
    """Number of checkpoints that are kept, the newest; 0: all."""
    keep_every: int = setting(0, changes_curve=False, since="0.2.0")
    """Checkpoints of multiples of this number of steps are kept too; 0: none."""
    keep_best: int = setting(0, changes_curve=False, since="0.2.0")
    """Number of checkpoints that are kept too, those with the least held-out loss. A checkpoint has one if its step is
    evaluated."""
    log_every: int = setting(10, changes_curve=False)
    """Steps between lines on the terminal. The metrics file has every step."""
    callbacks: list[str] = setting(default_factory=list, changes_curve=False, since="0.2.0")
    """Names of callbacks that plugins registered and that the run uses."""
    prediction: str | None = setting(None, changes_curve=False, since="0.2.0")
    """A file of `foretrain predict --out`: the sealed prediction of this run, with which its loss is compared."""
    sinks: list[str] = setting(default_factory=lambda: ["terminal", "tensorboard"], changes_curve=False, since="0.2.0")
    """Names of what receives the metrics, in addition to the file metrics.jsonl."""
    sink_options: dict[str, dict[str, str]] = setting(default_factory=dict, changes_curve=False, since="0.2.0")
    """Settings of these sinks, by the name of the sink and of the setting, such as sink_options.prometheus.port. Keys
    and passwords are no settings: a config can be read by others, so libraries take them from the environment."""
    profile_steps: list[int] = setting(default_factory=list, changes_curve=False, since="0.2.0")
    """The first and the last step whose operations are recorded, such as [20, 22]; []: none. The run reports where
    their time went, and writes a trace of every operation, and on GPUs a snapshot of memory, to run_dir/profiles."""
    profile_ranks: list[int] = setting(default_factory=lambda: [0], changes_curve=False, since="0.2.0")
    """The ranks on which `profile_steps` are recorded."""
    stop_after: int | None = setting(None, changes_curve=False)
    """Step after which the run saves a checkpoint and stops, without a change to the schedule; None: the last step."""

    def __post_init__(self) -> None:
        require_positive(
            num_tokens=self.num_tokens,
            global_batch_size=self.global_batch_size,
            micro_batch_size=self.micro_batch_size,
            log_every=self.log_every,
            stop_after=self.stop_after,
            recompute_layers=self.recompute_layers,
            spike_threshold=self.spike_threshold,
            eval_standard_error=self.eval_standard_error,
            eval_problems=self.eval_problems,
        )
        require(
            not self.eval_tasks or self.eval_samples > 0,
            f"eval_tasks = {self.eval_tasks} are evaluated together with held-out samples, and eval_samples = 0: set "
            "it, such as 64, or leave eval_tasks out",
        )
        require(
            len(self.eval_tasks) == len(set(self.eval_tasks)),
            f"eval_tasks = {self.eval_tasks} names a task twice: name each once",
        )
        require(
            self.eval_standard_error is None or self.eval_samples >= 2,
            f"eval_standard_error = {self.eval_standard_error} is estimated from the first eval_samples samples, and "
            f"eval_samples = {self.eval_samples}: set it to 2 or more (64 is a good start), or leave "
            "eval_standard_error out",
        )
        require_not_negative(self, "eval_every", "eval_samples", "check_every", "checkpoint_every", "keep_checkpoints")
        require_not_negative(self, "checkpoint_minutes", "keep_every", "keep_best", "replay_every")
        require_not_negative(self, "max_skips", "max_rollbacks")
        require_seeds(self, "seed")
        require(
            not (self.init_from and self.branch_from),
            "init_from starts a new run, and branch_from continues one: leave one of them out",
        )
        for name in ("checkpoint_folder", "init_from", "branch_from"):
            require(
                not HAS_PASSWORD.search(getattr(self, name) or ""),
                f"{name} {PASSWORD_ADVICE}",
            )
        for sink, options in self.sink_options.items():
            for name, value in options.items():
                require(
                    not HAS_PASSWORD.search(value),
                    f"sink_options.{sink}.{name} has a password in its URL, and others can read a config: leave "
                    "USER:PASSWORD@ out, and set the variables of the environment that the library of the sink reads",
                )
        require(self.init_from is not None or not self.init_optimizer, "init_optimizer needs init_from: set it")
        steps = self.profile_steps
        require(
            not steps or (len(steps) == 2 and 1 <= steps[0] <= steps[1]),
            f"profile_steps = {steps} must be the first and the last step to record, such as [20, 22], or []",
        )
        require(
            all(rank >= 0 for rank in self.profile_ranks), f"profile_ranks = {self.profile_ranks}: ranks begin at 0"
        )

    @property
    def rolls_back(self) -> bool:
        """Whether a step may make the run go back to a checkpoint."""
        return "rollback" in (self.on_non_finite, self.on_spike)


@dataclass
class SampleConfig:
    """Text that the model generates at the end of a run."""

    prompts: list[str] = field(default_factory=list)
    """Prompts that the trained model continues."""
    num_tokens: int = 64
    """Tokens generated for each prompt."""
    temperature: float = 0.8
    """Divisor of the logits; 0: always the most likely token."""
    top_k: int = 40
    """Number of tokens to sample from, the most likely ones; 0: all."""
    seed: int = 0
    """Seed of sampling."""
    top_p: float = setting(1.0, changes_curve=False, since="0.2.0")
    """Sample from the fewest most likely tokens whose probabilities sum to this; 1: from all."""
    min_p: float = setting(0.0, changes_curve=False, since="0.2.0")
    """Leave out tokens that are less likely than this share of the most likely one; 0: none."""
    stop: list[str] = setting(default_factory=list, changes_curve=False, since="0.2.0")
    """Text ends before the first of these in it."""

    def __post_init__(self) -> None:
        require_positive(num_tokens=self.num_tokens)
        require_not_negative(self, "temperature", "top_k")
        require(0 < self.top_p <= 1, f"top_p = {self.top_p:g} is a probability: use more than 0, up to 1 (1: all)")
        require(0 <= self.min_p <= 1, f"min_p = {self.min_p:g} is a share of a probability: use 0 (all) to 1")
        require(all(self.stop), "stop holds an empty text, at which every text would end: leave it out")
        require_seeds(self, "seed")
        least, most = FLOAT32
        require(
            self.temperature == 0 or least <= self.temperature <= most,
            f"temperature = {self.temperature:g} divides logits in float32: use 0, or {least:g} to {most:g}",
        )


@dataclass
class ClusterConfig:
    """The machines that a run is meant for. A run on this machine ignores them."""

    num_nodes: int = 1
    """Nodes of the job."""
    gpus_per_node: int = 8
    """Accelerators of one node. A node has one rank for each, on CPUs too."""
    gpu_memory_gib: float = 80.0
    """Memory of one accelerator, GiB."""
    gpu_peak_tflops: float = 312.0
    """Peak of dense bf16 matrix products in the datasheet, TFLOP/s."""
    intra_node_gb_s: float = 300.0
    """Bandwidth between the accelerators of a node in each direction, GB/s (NVLink 3: 300)."""
    inter_node_gb_s: float = 25.0
    """Bandwidth of an accelerator to the network, GB/s (200 Gbit/s HDR: 25)."""

    def __post_init__(self) -> None:
        require_positive(**vars(self))


@dataclass
class Config:
    """The config of a run."""

    run_dir: str = setting("runs/run", changes_curve=False)
    """Run folder: resolved config, metrics, checkpoints, plots."""
    plugins: list[str] = setting(default_factory=list, changes_curve=False, since="0.2.0")
    """Modules that are imported before the run is built. They register components that other settings name."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The model."""
    data: DataConfig = field(default_factory=DataConfig)
    """The corpus, and how it becomes samples."""
    parallel: ParallelConfig = setting(default_factory=ParallelConfig, changes_curve=False)
    """The layout."""
    mup: MupConfig = field(default_factory=MupConfig)
    """The parametrization: how tuned settings apply at other widths and depths."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimizer."""
    objective: ObjectiveConfig = setting(default_factory=ObjectiveConfig, since="0.2.0")
    """What the model learns from a sample."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """The learning-rate schedule."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The budget, the batch, and what happens every few steps."""
    sample: SampleConfig = setting(default_factory=SampleConfig, changes_curve=False)
    """Text that is generated at the end."""
    cluster: ClusterConfig = setting(default_factory=ClusterConfig, changes_curve=False)
    """The machines."""
    launch: LaunchConfig = setting(default_factory=LaunchConfig, changes_curve=False)
    """How a cluster starts the run."""

    def __post_init__(self) -> None:
        require_no_control_characters("run_dir", self.run_dir)
