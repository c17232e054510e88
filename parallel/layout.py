"""Which rank does what: pure arithmetic over (dp, tp, pp), and the reasons why a layout is refused.

Ranks are numbered with tp fastest, then cp, dp and pp (megatron-core's order "tp-cp-dp-pp"), so that a tensor-parallel
group is a run of neighbouring ranks and stays inside a node.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from foretrain.configs.schema import ModelConfig, ParallelConfig, TrainConfig
from foretrain.parallel.balance import split


class LayoutError(ValueError):
    """A layout that cannot run; the message says which number to change."""


@dataclass(frozen=True)
class Coordinates:
    """A rank's place in the mesh."""

    pp: int
    dp: int
    tp: int
    cp: int = 0


@dataclass(frozen=True)
class Layout:
    """Sizes of the mesh's axes and how work is laid on it."""

    dp: int = 1
    tp: int = 1
    pp: int = 1
    vpp: int = 1
    sp: bool = False
    schedule: str = "1f1b"
    zero_stage: int = 1
    stage_layers: tuple[int, ...] | None = None
    """Blocks of each stage; None: as even as can be."""
    cp: int = 1

    @classmethod
    def from_config(cls, config: ParallelConfig, world_size: int | None = None) -> "Layout":
        """The layout of `config` on `world_size` ranks (None: as many as it names; dp null then means 1).

        Raises LayoutError if the number of ranks does not fit.
        """
        model_parallel = config.tp * config.cp * config.pp
        axes = "tp * cp * pp" if config.cp > 1 else "tp * pp"
        sizes = f"{config.tp} * {config.cp} * {config.pp}" if config.cp > 1 else f"{config.tp} * {config.pp}"
        if world_size is None:
            world_size = (config.dp or 1) * model_parallel
        if world_size % model_parallel:
            raise LayoutError(
                f"{world_size} ranks cannot be divided into groups of {axes} = {sizes} = "
                f"{model_parallel}: start a multiple of {model_parallel} ranks, or change parallel.tp or parallel.pp"
            )
        dp = world_size // model_parallel
        if config.dp is not None and config.dp != dp:
            raise LayoutError(
                f"parallel.dp = {config.dp} needs dp * {axes} = {config.dp * model_parallel} ranks, but there are "
                f"{world_size}: start {config.dp * model_parallel} ranks, or set parallel.dp={dp} or parallel.dp=null"
            )
        stage_layers = None if config.stage_layers is None else tuple(config.stage_layers)
        return cls(
            dp=dp,
            tp=config.tp,
            pp=config.pp,
            vpp=config.vpp,
            sp=config.sp,
            schedule=config.schedule,
            zero_stage=config.zero_stage,
            stage_layers=stage_layers,
            cp=config.cp,
        )

    @property
    def world_size(self) -> int:
        """Ranks in all."""
        return self.dp * self.cp * self.tp * self.pp

    @property
    def num_stages(self) -> int:
        """Pipeline stages in all, virtual ones included."""
        return self.pp * self.vpp

    @property
    def splits_backward(self) -> bool:
        """Whether the schedule has the gradients of inputs and those of weights computed one after the other."""
        return self.pp > 1 and self.schedule in ("interleaved_zb", "zbv")

    def coordinates(self, rank: int) -> Coordinates:
        """The place of `rank`: rank = ((pp * dp_size + dp) * cp_size + cp) * tp_size + tp."""
        assert 0 <= rank < self.world_size, f"rank {rank} of {self.world_size}"
        rest, tp = divmod(rank, self.tp)
        rest, cp = divmod(rest, self.cp)
        pp, dp = divmod(rest, self.dp)
        return Coordinates(pp=pp, dp=dp, tp=tp, cp=cp)

    def rank(self, pp: int, dp: int, tp: int, cp: int = 0) -> int:
        """The inverse of `coordinates`."""
        return ((pp * self.dp + dp) * self.cp + cp) * self.tp + tp

    def stages_of(self, pp_rank: int) -> list[int]:
        """Global indices of the stages that a pipeline rank holds, in the order in which data meets them."""
        if self.schedule == "zbv" and self.pp > 1:  # stages lie in a V: the first and the last are both on rank 0
            return [pp_rank, self.num_stages - 1 - pp_rank]
        return [pp_rank + chunk * self.pp for chunk in range(self.vpp)]

    def stage_to_pp_rank(self, stage: int) -> int:
        """The pipeline rank that holds a stage."""
        return next(pp_rank for pp_rank in range(self.pp) if stage in self.stages_of(pp_rank))

    def layers_of(self, stage: int, num_layers: int) -> range:
        """Blocks of a stage: `stage_layers`, or as even as can be; then the stages in the middle take the extra ones.

        The first and the last stage also carry the embedding and the head, so they are the last to get an extra block.
        """
        sizes = self.stage_layers or split(
            num_layers, self.num_stages, block=1, first=0, last=0, holders=range(self.num_stages)
        )
        start = sum(sizes[:stage])
        return range(start, start + sizes[stage])

    def num_microbatches(self, train: TrainConfig) -> int:
        """Forward passes of one rank in one step."""
        return train.global_batch_size // (self.dp * train.micro_batch_size)

    def __str__(self) -> str:
        text = f"dp={self.dp} tp={self.tp} pp={self.pp}"
        if self.cp > 1:
            text += f" cp={self.cp}"
        if self.vpp > 1:
            text += f" vpp={self.vpp}"
        if self.pp > 1:
            text += f" {self.schedule}"
        if self.stage_layers is not None:
            text += f" layers={','.join(map(str, self.stage_layers))}"
        return text + (" sp" if self.sp else "") + f" zero={self.zero_stage}"


def check(layout: Layout, model: ModelConfig, train: TrainConfig) -> None:
    """Raise LayoutError with every reason, a line each, why `layout` cannot train `model` with `train`."""
    problems = [*tensor_problems(layout, model), *_pipeline_problems(layout, model), *_batch_problems(layout, train)]
    if layout.zero_stage == 3 and train.compile:
        problems.append(
            "parallel.zero_stage = 3 gathers the weights of each part of a block when that part is called, and "
            "train.compile makes one function of all parts: set train.compile=false, or use parallel.zero_stage=2"
        )
    if layout.zero_stage == 0 and train.precision == "bf16":
        problems.append(
            "parallel.zero_stage = 0 keeps no fp32 masters for train.precision = bf16: use parallel.zero_stage=1 "
            "(with dp = 1 it is the same)"
        )
    if problems:
        raise LayoutError("\n".join(problems))


def divisors(number: int) -> str:
    """The divisors of a number as a phrase: "1, 2, 3 or 6"."""
    found = [str(d) for d in range(1, number + 1) if number % d == 0]
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} or {found[-1]}"


def tensor_problems(layout: Layout, model: ModelConfig) -> Iterator[str]:
    """Each reason why tensor, sequence or context parallelism cannot divide `model`, which says what to change."""
    for name, size in {"num_heads": model.num_heads, "d_ff": model.block_shape.d_ff}.items():
        if size % layout.tp:
            yield (
                f"parallel.tp = {layout.tp} does not divide model.{name} = {size}: use a tp that does, or change {name}"
                + (f" (tp may be {divisors(size)})" if size <= 1024 else "")
            )
    kv = model.num_kv_heads
    if kv is not None and kv % layout.tp and layout.tp % kv:
        yield (
            f"parallel.tp = {layout.tp} and model.num_kv_heads = {kv} do not divide one another: use a tp that divides "
            f"it ({divisors(kv)}), where ranks share out the heads, or a multiple of it, where they share a head"
        )
    if layout.cp > 1 and (model.num_heads // layout.tp) % layout.cp:
        yield (
            f"parallel.cp = {layout.cp} does not divide the model.num_heads / tp = {model.num_heads // layout.tp} "
            f"heads of a rank, which it exchanges for positions: use a cp of {divisors(model.num_heads // layout.tp)}"
        )
    if layout.cp > 1 and model.seq_len % layout.cp:
        yield f"parallel.cp = {layout.cp} does not divide model.seq_len = {model.seq_len}: change one"
    if layout.sp and layout.tp == 1:
        yield "parallel.sp = true splits the sequence over tensor-parallel ranks, and parallel.tp = 1: set sp=false"
    if layout.sp and model.seq_len % (layout.tp * layout.cp):
        parts = f"tp * cp = {layout.tp} * {layout.cp}" if layout.cp > 1 else f"parallel.tp = {layout.tp}"
        yield (
            f"parallel.sp needs model.seq_len = {model.seq_len} to be a multiple of {parts}: "
            "change one, or set sp=false"
        )


def _pipeline_problems(layout: Layout, model: ModelConfig) -> Iterator[str]:
    if model.num_layers < layout.num_stages:
        yield (
            f"model.num_layers = {model.num_layers} is fewer than pp * vpp = {layout.pp} * {layout.vpp} = "
            f"{layout.num_stages} stages: every stage needs a layer, so lower parallel.pp or parallel.vpp"
        )
    sizes = layout.stage_layers
    if sizes is not None and (len(sizes) != layout.num_stages or sum(sizes) != model.num_layers):
        yield (
            f"parallel.stage_layers = {list(sizes)} puts {sum(sizes)} blocks on {len(sizes)} stages, but there are "
            f"model.num_layers = {model.num_layers} blocks and pp * vpp = {layout.pp} * {layout.vpp} = "
            f"{layout.num_stages} stages: list {layout.num_stages} numbers whose sum is {model.num_layers}, or leave "
            "stage_layers out"
        )
    if layout.zero_stage >= 2 and layout.pp > 1:
        yield (
            f"parallel.zero_stage = {layout.zero_stage} needs parallel.pp = 1 (its gradients would be reduced once "
            f"for every microbatch): use zero_stage=1 with pipelines"
        )
    if layout.pp == 1 and layout.vpp > 1:
        yield f"parallel.vpp = {layout.vpp} splits pipeline ranks, and parallel.pp = 1: set vpp=1"
    if layout.pp > 1 and layout.schedule == "1f1b" and layout.vpp > 1:
        yield f"parallel.schedule = 1f1b takes parallel.vpp = 1, not {layout.vpp}: use schedule=interleaved_1f1b"
    if layout.pp > 1 and layout.schedule.startswith("interleaved") and layout.vpp < 2:
        yield f"parallel.schedule = {layout.schedule} needs parallel.vpp of 2 or more: set vpp=2, or schedule=1f1b"
    if layout.pp > 1 and layout.schedule == "zbv" and layout.vpp != 2:
        yield f"parallel.schedule = zbv puts two stages on each rank: set parallel.vpp=2, not {layout.vpp}"


def _batch_problems(layout: Layout, train: TrainConfig) -> Iterator[str]:
    per_pass = layout.dp * train.micro_batch_size
    if train.global_batch_size % per_pass:
        near = max(per_pass, round(train.global_batch_size / per_pass) * per_pass)
        yield (
            f"train.global_batch_size = {train.global_batch_size} is not divisible by dp * micro_batch_size = "
            f"{layout.dp} * {train.micro_batch_size} = {per_pass}: use {near}, or another train.micro_batch_size"
        )
        return
    if layout.pp > 1:
        yield from _microbatch_problems(layout, layout.num_microbatches(train), per_pass)


def _microbatch_problems(layout: Layout, count: int, per_pass: int) -> Iterator[str]:
    """Why a schedule cannot run `count` microbatches of `per_pass` samples over all data-parallel ranks."""
    pp = layout.pp
    at_least = {
        "1f1b": (f"at least parallel.pp = {pp}", max(count, pp)),
        "zbv": (f"at least 2 * parallel.pp = {2 * pp}", max(count, 2 * pp)),
    }
    needs, fitting = at_least.get(layout.schedule, (f"a multiple of parallel.pp = {pp}", -(-count // pp) * pp))
    if count != fitting:
        yield (
            f"parallel.schedule = {layout.schedule} needs {needs} microbatches, and a rank has {count}: "
            f"use train.global_batch_size={fitting * per_pass}, or another train.micro_batch_size"
        )
