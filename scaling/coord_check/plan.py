"""The small models that a coordinate check trains for a few steps: known before a process starts. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from foretrain.configs.data import DataConfig
from foretrain.configs.optimization import MAX_LR
from foretrain.configs.schema import Config, ModelConfig, ParallelConfig, TrainConfig
from foretrain.parallel.layout import Layout, check
from foretrain.scaling.layouts import parallel_config
from foretrain.scaling.records import NUM_CHECK_STEPS
from foretrain.scaling.verify.shrink import shrink_keeping_divisors
from foretrain.trainer.model.resize import resized
from foretrain.trainer.mup.parametrize import blueprint
from foretrain.trainer.optimizers.entry import entry_of

Axis = Literal["width", "depth"]
Device = Literal["cpu", "cuda"]

SEQ_LEN, NUM_SAMPLES, MAX_VOCAB_SIZE = 32, 16, 16
"""Sizes of the batch. There are few distinct tokens: what they teach is the same at every width, and soon larger than
what random vectors have in common, which falls as width^-1/2. With 256 tokens sound models up to 256 wide have slopes
of -0.5."""
LR_SHARE = 1 / 32
"""The default learning rate for adamw, as a share of `model.init_std`. The first steps of adamw are as large as its
rate: updates are visible from the first step on, and eight of them do not yet learn everything. At 1/5 they do, and
slopes become random."""
MAX_WIDTH: dict[Device, int] = {"cpu": 512, "cuda": 2048}
MAX_DEPTH: dict[Device, int] = {"cpu": 16, "cuda": 64}
"""Limits of ladders whose sizes the user did not name."""
NUM_RUNGS, MIN_RUNGS, MIN_SPAN = 4, 3, 4
"""The slopes of fewer models, or of sizes that are closer to one another, are mostly noise."""
DEPTH_OF_WIDTHS = 2
"""Number of blocks in a ladder of widths if there is no ladder of depths: a first block and a last one."""


@dataclass(frozen=True, order=True)
class Rung:
    """One model of a ladder."""

    width: int
    depth: int

    def __str__(self) -> str:
        return f"width {self.width}, {self.depth} {'block' if self.depth == 1 else 'blocks'}"


@dataclass(frozen=True)
class Ladder:
    """Models that differ in one size, over which their statistics are compared."""

    axis: Axis
    rungs: tuple[Rung, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The size of each rung along the axis."""
        return tuple(getattr(rung, self.axis) for rung in self.rungs)


@dataclass(frozen=True)
class CoordCheckPlan:
    """Everything that a coordinate check does."""

    config: Config
    """The user's config; `configs_of` makes it small."""
    ladders: tuple[Ladder, ...]
    layout: Layout
    lr: float
    num_seeds: int
    num_steps: int
    device: Device

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """Every model once, the largest first, so that the last one to end is short."""
        return tuple(sorted({rung for ladder in self.ladders for rung in ladder.rungs}, key=work, reverse=True))

    @property
    def judged_steps(self) -> tuple[int, ...]:
        """Steps after which statistics are judged; at step 0 the model has learned nothing yet."""
        return (*(step for step in (1, 3) if step < self.num_steps), self.num_steps)

    def configs_of(self, rung: Rung) -> list[Config]:
        """The configs that the ranks train for a rung: one for each seed."""
        model = small_model(self.config.model, rung, self.layout)
        train = _train(self.layout, self.device)
        return [
            Config(
                plugins=self.config.plugins,
                model=model,
                data=DataConfig(),
                parallel=parallel_config(self.layout, ParallelConfig()),
                mup=self.config.mup,
                optimizer=replace(self.config.optimizer, lr=self.lr),
                train=replace(train, seed=self.config.train.seed + seed),
            )
            for seed in range(self.num_seeds)
        ]


def make_plan(
    config: Config,
    *,
    widths: Sequence[int] = (),
    depths: Sequence[int] | None = None,
    num_seeds: int = 2,
    num_steps: int = NUM_CHECK_STEPS,
    lr: float | None = None,
    layout: Layout | None = None,
    device: Device = "cpu",
) -> CoordCheckPlan:
    """The plan of a check of `config`.

    Without `widths`, the ladder doubles around the width of the base shape, or else of the model. With `depths` None,
    it does so for depth, if the parametrization holds over depths; with an empty sequence it never does. Raises
    ValueError with every reason why the check is impossible.
    """
    for name, value in (("--seeds", num_seeds), ("--steps", num_steps)):
        if value < 1:
            raise ValueError(f"{name} {value}: use 1 or more")
    if lr is not None and not 0 < lr <= MAX_LR:
        raise ValueError(f"--lr {lr:g}: a learning rate is positive, and {MAX_LR:g} at most")
    layout = layout or Layout()
    chosen_widths = _ascending("--widths", widths) if widths else _default_widths(config, MAX_WIDTH[device])
    if depths is None:
        depths = _default_depths(config, MAX_DEPTH[device]) if config.mup.parametrization == "completep" else ()
    chosen_depths = _ascending("--depths", depths) if depths else ()
    plan = CoordCheckPlan(
        config=config,
        ladders=_ladders(chosen_widths, chosen_depths, _depth_of_widths(config, chosen_depths, layout)),
        layout=layout,
        lr=default_lr(config) if lr is None else lr,
        num_seeds=num_seeds,
        num_steps=num_steps,
        device=device,
    )
    for rung in plan.rungs:
        small = plan.configs_of(rung)[0]
        check(layout, small.model, small.train)
        blueprint(small)
    return plan


def default_lr(config: Config) -> float:
    """The learning rate of a check that is given none: of the size of weights, if that is what sets a step's size."""
    is_size_of_steps = entry_of(config.optimizer).step_degree == 0
    return config.model.init_std * LR_SHARE if is_size_of_steps else config.optimizer.lr


def small_model(model: ModelConfig, rung: Rung, layout: Layout) -> ModelConfig:
    """The model at the size of a rung, with short samples of few tokens; heads keep their width.

    If `model.head_init_std` is 0, the head starts like the other matrices: else nothing below it moves in the first
    step.
    """
    return replace(
        resized(model, rung.width, rung.depth),
        head_init_std=model.head_init_std or None,
        vocab_size=min(model.vocab_size or MAX_VOCAB_SIZE, MAX_VOCAB_SIZE),
        seq_len=shrink_keeping_divisors(model.seq_len, layout.tp * layout.cp, at_least=SEQ_LEN),
    )


def work(rung: Rung) -> int:
    """A rough estimate of the time that a rung takes: a constant for its start, and its matrices."""
    return 2**20 + 12 * rung.depth * rung.width**2


def parse_sizes(option: str, text: str) -> list[int]:
    """Sizes separated by commas, such as "32,64,128"; empty for "". Raises ValueError, which names option and word."""
    if not text.strip():
        return []
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if not word.isdecimal() or int(word) < 1:
            raise ValueError(f"{option} {text}: {word!r} is not a size: use whole numbers, such as 32,64,128")
    return [int(word) for word in words]


def _ascending(option: str, sizes: Sequence[int]) -> tuple[int, ...]:
    found = tuple(sorted(set(sizes)))
    if len(found) < MIN_RUNGS:
        raise ValueError(
            f"{option} {','.join(map(str, sizes))}: a slope through fewer than {MIN_RUNGS} sizes is mostly noise: name "
            f"{MIN_RUNGS}, or better {NUM_RUNGS}"
        )
    if found[-1] < MIN_SPAN * found[0]:
        raise ValueError(
            f"{option} {','.join(map(str, sizes))}: a slope over sizes that differ by less than {MIN_SPAN} times is "
            "mostly noise: double from one to the next"
        )
    return found


def _ladders(widths: tuple[int, ...], depths: tuple[int, ...], depth: int) -> tuple[Ladder, ...]:
    """The ladders. That of depths has the second width, where a factor that forgets one of two ratios shows."""
    over_widths = Ladder("width", tuple(Rung(width, depth) for width in widths))
    over_depths = Ladder("depth", tuple(Rung(widths[1], each) for each in depths))
    return (over_widths, over_depths) if depths else (over_widths,)


def _default_widths(config: Config, limit: int) -> tuple[int, ...]:
    base = config.mup.base.d_model or config.model.d_model
    return _doublings(base, limit, lambda width: _is_possible(config.model, width))


def _default_depths(config: Config, limit: int) -> tuple[int, ...]:
    return _doublings(config.mup.base.num_layers or config.model.num_layers, limit, lambda depth: True)


def _doublings(base: int, limit: int, is_possible: Callable[[int], bool]) -> tuple[int, ...]:
    """Sizes that double up to `limit`, all `base` times a power of two; larger if `base` cannot be halved."""
    start = next((base << shift for shift in range(32) if is_possible(base << shift)), base)
    while start << NUM_RUNGS <= limit:
        start *= 2
    while start << (NUM_RUNGS - 1) > limit and start % 2 == 0 and is_possible(start // 2):
        start //= 2
    wanted = (start << doublings for doublings in range(NUM_RUNGS))
    return tuple(size for number, size in enumerate(wanted) if size <= limit or number < MIN_RUNGS)


def _is_possible(model: ModelConfig, width: int) -> bool:
    try:
        resized(model, width)
    except ValueError:
        return False
    return True


def _train(layout: Layout, device: Device) -> TrainConfig:
    """One forward pass for each step; with a pipeline, as many as its schedules need."""
    num_microbatches = 2 * layout.pp if layout.pp > 1 else 1
    micro_batch_size = max(1, -(-NUM_SAMPLES // (layout.dp * num_microbatches)))
    return TrainConfig(
        global_batch_size=micro_batch_size * layout.dp * num_microbatches,
        micro_batch_size=micro_batch_size,
        device=device,
    )


def _depth_of_widths(config: Config, depths: Sequence[int], layout: Layout) -> int:
    own = config.mup.base.num_layers or config.model.num_layers
    return depths[0] if depths else max(min(own, DEPTH_OF_WIDTHS), layout.num_stages)
