"""One rank of a config on fake GPUs: it is built, trains some steps, and saves and loads a checkpoint."""

import gc
import math
import os
import tempfile
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from foretrain.configs.load import config_hash
from foretrain.configs.schema import Config
from foretrain.parallel.layout import Layout
from foretrain.parallel.layout import check as check_layout
from foretrain.registry import import_plugins
from foretrain.scaling.fake_cuda import device
from foretrain.scaling.fake_cuda.record import Phase, RankRecord

if TYPE_CHECKING:
    from foretrain.parallel.groups import Groups
    from foretrain.parallel.zero.base import Zero
    from foretrain.scaling.fake_cuda.ledger import Ledger
    from foretrain.trainer.state import ModelState

TIMEOUT = timedelta(minutes=1)
"""The limit of a collective; none of them waits."""


def run_rank(config: Config, rank: int, num_steps: int = 2, *, checkpoint: bool = True) -> RankRecord:
    """What rank `rank` of `config` does in `num_steps` steps, and if `checkpoint` in saving and loading a checkpoint.

    The process must not have imported DeepSpeed before. Afterwards it is fit for further ranks, also of other configs,
    and for nothing else that uses torch.
    Batches are those of a verification. Stages are balanced by FLOPs where the config would measure their time. Python
    collects garbage between steps only, so that equal runs have equal records: until then, what is in cycles is live.
    Raises ValueError for a config, a layout or a rank that cannot be, UnsupportedTorchError for another torch, and what
    the code raises that is run.
    """
    import_plugins(config.plugins)
    layout = _layout(config)
    if not 0 <= rank < layout.world_size:
        raise ValueError(f"there is no rank {rank}: the layout {layout} has {layout.world_size} ranks, from 0")
    _install()
    from foretrain.scaling.fake_cuda.libraries import forget_rank

    gc.disable()  # when it would run depends on everything else that the process does
    try:
        return _run(config, layout, rank, num_steps, checkpoint)
    finally:
        forget_rank()
        gc.enable()
        gc.collect()


@cache
def _install() -> None:
    os.environ.pop("DS_ACCELERATOR", None)
    os.environ.pop("LOCAL_SIZE", None)
    device.check_torch()
    from foretrain.scaling.fake_cuda.watch import note_sync

    device.install(note_sync)
    from foretrain.scaling.fake_cuda import kernels, libraries

    kernels.install()
    libraries.install()
    # DeepSpeed collects garbage at many places; what has been imported by now is none.
    gc.collect()
    gc.freeze()


def _layout(config: Config) -> Layout:
    """The layout of a config, checked as before a run. Raises ValueError."""
    from foretrain.trainer.model.table import check_sharding
    from foretrain.trainer.optimizers.entry import check_layout as check_optimizer
    from foretrain.trainer.stages.cost import balance_stages, flop_costs

    model, train = config.model, config.train
    if model.vocab_size is None:
        raise ValueError("model.vocab_size is not set, and here are no data that give it: set model.vocab_size")
    if train.compile:
        raise ValueError("train.compile = true makes code for real GPUs, and these are none: set train.compile=false")
    layout = Layout.from_config(config.parallel)
    check_layout(layout, model, train)
    check_sharding(model, layout)
    check_optimizer(config.optimizer, layout)
    if config.parallel.balance != "even" and layout.stage_layers is None:
        layout = balance_stages(layout, model.num_layers, flop_costs(model, train, layout))
    return layout


def _run(config: Config, layout: Layout, rank: int, num_steps: int, checkpoint: bool) -> RankRecord:
    from foretrain.parallel import shim
    from foretrain.parallel.groups import Groups
    from foretrain.scaling.fake_cuda.collectives import GroupNames
    from foretrain.scaling.fake_cuda.libraries import expect_shapes
    from foretrain.scaling.fake_cuda.watch import Watch
    from foretrain.trainer.build import build_engine

    _connect(layout, rank)
    gpu = shim.device_of("cuda", 0)
    shim.install(gpu)
    groups = Groups(layout, gpu, TIMEOUT)
    expect_shapes(config, layout)
    batches = _batches(config, groups, num_steps)
    with FakeTensorMode(allow_non_fake_inputs=True), Watch(GroupNames(groups)) as watch:
        ledger = watch.ledger
        with ledger.phase("build"):
            engine, state = build_engine(config, groups)
        (build,) = ledger.take()
        _mark_phases(engine.zero, ledger)
        engine.set_lr(1.0)
        steps = []
        for batch in batches:
            gc.collect()
            with ledger.phase("forward_backward"):
                engine.train_step(*batch)
            steps.append(ledger.take())
        saved = _checkpoint(config, state, ledger) if checkpoint else (None, None)
        return RankRecord(
            config_hash(config),
            str(layout),
            rank,
            f"pp={groups.at.pp} dp={groups.at.dp} cp={groups.at.cp} tp={groups.at.tp}",
            torch.__version__,
            layout.num_microbatches(config.train),
            sum(math.prod(shard.shape) for shard in state.owned),
            build,
            tuple(steps),
            *saved,
        )


def _connect(layout: Layout, rank: int) -> None:
    """Connect to no other rank, by torch's fake process group."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(layout.world_size),
        LOCAL_RANK="0",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT="1",
    )
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=layout.world_size)


def _batches(config: Config, groups: "Groups", num_steps: int) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """The rank's share of each batch, with its values, in pageable host memory.

    At least one target carries a loss, since no other rank adds its own to their number.
    """
    from foretrain.trainer.objectives.base import objective_of
    from foretrain.trainer.verification.probe import make_samples

    objective = objective_of(config)(config)
    share = groups.share.samples(config.train.global_batch_size)
    batches = [objective.tensors(make_samples(config, step, share)) for step in range(num_steps)]
    for _, targets_BL, _ in batches:
        targets_BL[0, groups.share.positions(targets_BL.shape[1])] = 0
    return batches


def _mark_phases(zero: "Zero", ledger: "Ledger") -> None:
    """Let the methods that reduce gradients and update parameters be phases."""
    for owner, name, phase in (
        (zero, "reduce_gradients", "reduce"),
        (zero.module, "allreduce_gradients", "reduce"),  # DeepSpeed's, which it calls in a backward pass
        (zero, "squared_grad_norm", "update"),
        (zero, "update", "update"),
    ):
        if hasattr(owner, name):
            setattr(owner, name, ledger.during(phase, getattr(owner, name)))


def _checkpoint(config: Config, state: "ModelState", ledger: "Ledger") -> tuple[Phase, Phase]:
    """Save and load a checkpoint, up to the point where torch would write and read files."""
    from foretrain.trainer.checkpoint.files import Checkpoints
    from foretrain.trainer.checkpoint.loading import load
    from foretrain.trainer.checkpoint.record import CheckpointRecord
    from foretrain.trainer.checkpoint.retention import Retention

    record = CheckpointRecord(1, config.train.global_batch_size, config.data.seed, "", "", "")
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), Retention(newest=1))
        gc.collect()
        with ledger.phase("save"):
            path = checkpoints.save(1, state, record, config)
        gc.collect()
        with ledger.phase("load"):
            load(path, state, 1)
    saved, loaded = ledger.take()
    return saved, loaded
