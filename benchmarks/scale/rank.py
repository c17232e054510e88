"""What one rank measures of a point."""

import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.checkpoint.contestants import Ours
from benchmarks.train.pace import peaks
from foretrain.configs.schema import Config
from foretrain.parallel.engine import Engine
from foretrain.parallel.groups import Groups, destroy_groups, init_groups
from foretrain.parallel.layout import Layout
from foretrain.trainer.build import build_engine
from foretrain.trainer.stages.cost import balance_stages, flop_costs

Record = dict[str, Any]
TIMEOUT_S = 300.0
WARMUP = 3
NUM_SAVES = 3


def measure_steps(config: Config, num_steps: int) -> Record:
    """Seconds of each step, and of this rank's CPU in all of them, and the peak of this rank's memory."""
    groups = _groups(config)
    engine, batch = _trained(config, groups)
    for _ in range(WARMUP):
        engine.train_step(*batch)
    Path("/proc/self/clear_refs").write_text("5")  # the peak of host memory becomes what is used now
    dist.barrier(group=groups.cpu)
    step_s, cpu_s = [], time.process_time()
    for _ in range(num_steps):
        start_s = time.perf_counter()
        engine.train_step(*batch)
        _synchronize(groups)
        step_s.append(time.perf_counter() - start_s)
    found = {"step_s": step_s, "cpu_s": time.process_time() - cpu_s, **peaks(groups.device)}
    destroy_groups()
    return found


def measure_saves(config: Config, folder: Path) -> Record:
    """Seconds of each save until it is complete, but the first, which makes the buffers too."""
    groups = _groups(config)
    contestant = Ours(config, groups, folder)
    save_s = []
    for number in range(1 + NUM_SAVES):
        start_s = time.perf_counter()
        contestant.start(number)
        contestant.finish()
        save_s.append(time.perf_counter() - start_s)
    destroy_groups()
    return {"save_s": save_s[1:]}


def measure_memory(config: Config, first_steps: int, num_steps: int) -> Record:
    """The memory of this rank after the first steps, and after many, in bytes."""
    groups = _groups(config)
    engine, batch = _trained(config, groups)
    memory = []
    for number in range(1, num_steps + 1):
        engine.train_step(*batch)
        if number in (first_steps, num_steps):
            memory.append(_used_bytes(groups.device))
    destroy_groups()
    return {"first_bytes": memory[0], "last_bytes": memory[1]}


def _groups(config: Config) -> Groups:
    """The groups of this rank, which computes with one thread, with the stages that a run would have."""
    torch.set_num_threads(1)
    layout = Layout.from_config(config.parallel)
    if layout.stage_layers is None:
        costs = flop_costs(config.model, config.train, layout)
        layout = balance_stages(layout, config.model.num_layers, costs)
    return init_groups(layout, config.train.device, TIMEOUT_S)


def _trained(config: Config, groups: Groups) -> tuple[Engine, tuple[Tensor, Tensor]]:
    """An engine, and this rank's samples of a random batch."""
    engine, _ = build_engine(config, groups)
    engine.set_lr(1.0)
    model, size = config.model, config.train.global_batch_size
    assert model.vocab_size is not None
    generator = torch.Generator().manual_seed(0)
    tokens_BL = torch.randint(model.vocab_size, (size, model.seq_len + 1), generator=generator)
    mine_BL = tokens_BL[groups.share.samples(size)]
    return engine, (mine_BL[:, :-1].contiguous(), mine_BL[:, 1:].contiguous())


def _synchronize(groups: Groups) -> None:
    if groups.device.type == "cuda":
        torch.cuda.synchronize()


def _used_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.memory_allocated()
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
