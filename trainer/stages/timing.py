"""Costs of the stages of a pipeline, measured on this machine in the precision and sizes of a run."""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
from torch import Tensor

from foretrain.configs.model import ModelConfig, Shape
from foretrain.configs.schema import TrainConfig
from foretrain.files import write_atomically
from foretrain.parallel.groups import Groups
from foretrain.parallel.layout import Layout
from foretrain.parallel.loss import cross_entropy
from foretrain.parallel.placement import allocate
from foretrain.parallel.tensor import TensorParallel
from foretrain.trainer.model.blueprint import Blueprint
from foretrain.trainer.model.gpt import Recompute, Stage
from foretrain.trainer.model.logits import rows_of_part
from foretrain.trainer.stages.cost import Costs, balance_stages

logger = logging.getLogger(__name__)

STAGES_FILE = "stages.json"
NUM_WARMUPS = 3
NUM_REPEATS = 11


def measure_costs(model: ModelConfig, layout: Layout, train: TrainConfig, device: torch.device) -> Costs:
    """Median seconds of forward and backward of one micro-batch, with the sizes of one tensor-parallel rank.

    Communication between ranks is left out, so under tensor parallelism a block costs more than this. Under sequence
    parallelism the norms are timed on the full sequence. If only some blocks recompute, one of those is timed.

    Legend: L sequence, B batch, D model width.
    """
    local, tp = local_model(model, layout.tp), TensorParallel()
    dtype = torch.bfloat16 if train.precision == "bf16" else torch.float32
    recompute = Recompute(train.recompute)
    generator = torch.Generator(device).manual_seed(0)
    shape = Shape.of(local)
    tokens_BL = torch.randint(
        shape.vocab_size, (train.micro_batch_size, shape.seq_len), generator=generator, device=device
    )
    x_LBD = torch.randn(
        shape.seq_len, train.micro_batch_size, shape.d_model, generator=generator, device=device, dtype=dtype
    ).requires_grad_()
    grad_LBD = torch.ones_like(x_LBD)

    def part(layers: range, is_first: bool = False, is_last: bool = False) -> Stage:
        stage = Stage(
            Blueprint.of(local),
            layers,
            tp,
            is_first=is_first,
            is_last=is_last,
            recompute=recompute,
            rows_of_part=rows_of_part(model, train, layout),
        )
        allocate(stage.parameters(), lambda _, out, __: out.normal_(std=0.02, generator=generator), device, dtype)
        return stage.to(device, dtype)

    def losses_of(stage: Stage) -> Tensor:
        if stage.takes_targets:
            return stage(x_LBD, targets=tokens_BL)
        return cross_entropy(stage(x_LBD), tokens_BL, tp)

    first, block, last = part(range(0), is_first=True), part(range(1)), part(range(0), is_last=True)
    passes: list[Callable[[], None]] = [
        lambda: first(tokens_BL).backward(grad_LBD),
        lambda: block(x_LBD, loss_scale=1.0).backward(grad_LBD),
        lambda: losses_of(last).sum().backward(),
    ]
    # The three take turns, so that a machine that becomes slower does so for all of them.
    rounds_s = [[_seconds(run, device) for run in passes] for _ in range(NUM_WARMUPS + NUM_REPEATS)]
    return Costs(*map(median, zip(*rounds_s[NUM_WARMUPS:], strict=True)))


def measure_and_balance(model: ModelConfig, train: TrainConfig, groups: Groups, run_dir: Path) -> Layout:
    """The layout that balances the costs that rank 0 measures, on every rank; rank 0 writes both into `run_dir`."""
    costs_s = torch.zeros(3, dtype=torch.float64, device=groups.device)
    if groups.rank == 0:
        costs = measure_costs(model, groups.layout, train, groups.device)
        costs_s = costs_s.new_tensor([costs.first, costs.block, costs.last])
    dist.broadcast(costs_s, src=0)
    costs = Costs(*costs_s.tolist())
    layout = balance_stages(groups.layout, model.num_layers, costs)
    if groups.rank == 0:
        run_dir.mkdir(parents=True, exist_ok=True)
        record = {"stage_layers": stage_layers(layout, model), "costs_s": asdict(costs)}
        try:
            write_atomically(run_dir / STAGES_FILE, json.dumps(record, indent=1) + "\n")
        except OSError as error:  # the file is for people alone
            logger.warning("the costs of the stages are not recorded (%s)", error)
    return layout


def stage_layers(layout: Layout, model: ModelConfig) -> list[int]:
    """Blocks of each stage."""
    return [len(layout.layers_of(stage, model.num_layers)) for stage in range(layout.num_stages)]


def local_model(model: ModelConfig, tp: int) -> ModelConfig:
    """A model of the size that one of `tp` ranks holds."""
    shape = Shape.of(model)
    return replace(
        model,
        num_heads=shape.num_heads // tp,
        num_kv_heads=max(1, shape.num_kv_heads // tp),  # ranks share a head if there are fewer heads than ranks
        head_dim=shape.head_dim,
        d_ff=shape.d_ff // tp,
        vocab_size=-(-shape.vocab_size // tp),
    )


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    synchronize = torch.get_device_module(device).synchronize
    synchronize()
    started_s = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - started_s
