"""What one rank measures: saves of one contestant, and steps while foretrain writes."""

import importlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist

from benchmarks.checkpoint.contestants import Contestant, Ours
from foretrain.configs.schema import Config
from foretrain.files import sync
from foretrain.parallel.groups import Groups, destroy_groups, init_groups
from foretrain.parallel.layout import Layout
from foretrain.trainer.checkpoint.space import checkpoint_bytes

NUM_SAVES = 3
"""Saves of a contestant in one process. The first is reported apart; of the others the fastest counts."""
NUM_COPIES = 2
"""Bare copies before each save; the fastest counts."""
FEWEST_STEPS = 8
"""Steps that are measured while foretrain writes."""
MOST_SAVES = 5
"""After these, steps count too during which a write has ended."""


def measure(contestant: str, config: Config, folder: Path, peers: Path | None) -> dict[str, float]:
    """What saves of a contestant ("module:class") cost on this rank. Raises ImportError if a library is missing."""
    groups = _groups(config, peers)
    module, _, name = contestant.partition(":")
    contest: Contestant = getattr(importlib.import_module(module), name)(config, groups, folder)
    share = checkpoint_bytes(config) // groups.layout.world_size
    source, target = torch.rand(share // 4), torch.ones(share // 4)
    copies, stalls, totals, cpu = [], [], [], []
    memory = _Memory()
    for number in range(NUM_SAVES):
        copies += [_seconds(groups, lambda: target.copy_(source)) for _ in range(NUM_COPIES)]
        (stall_s, stall_cpu_s), total_s = _save(contest, groups, number)
        stalls.append(stall_s)
        cpu.append(stall_cpu_s)
        totals.append(total_s)
        num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        _clear(folder, groups)
    extra = memory.extra_bytes()
    staging_bytes = contest.staging_bytes
    contest.close()
    destroy_groups()
    return {
        "state_bytes": 4 * len(source),
        "written_bytes": num_bytes / groups.layout.world_size,
        "memcpy_s": min(wall_s for wall_s, _ in copies),
        "memcpy_cpu_s": min(cpu_s for _, cpu_s in copies),
        "stall_s": min(stalls[1:]),
        "stall_cpu_s": min(cpu[1:]),
        "first_stall_s": stalls[0],
        "total_s": min(totals[1:]),
        "first_total_s": totals[0],
        "extra_host_bytes": extra,
        "staging_bytes": staging_bytes,
    }


def measure_steps(contestant: str, config: Config, folder: Path) -> dict[str, float]:
    """Medians of the seconds of steps while a save is written, of those before and after, and of steps beside a bare
    write of as many bytes by another process. For one rank."""
    groups = _groups(config, None)
    module, _, name = contestant.partition(":")
    ours: Ours = getattr(importlib.import_module(module), name)(config, groups, folder)
    tokens = torch.randint(config.model.vocab_size or 0, (config.train.global_batch_size, config.model.seq_len))
    ours.engine.set_lr(0.0)  # the numbers of the state stay as they are
    _step_s(ours, tokens)
    during: list[tuple[float, float]] = []
    without: list[tuple[float, float]] = []
    ours.start(0)
    ours.finish()
    partly: list[tuple[float, float]] = []
    for number in range(1, MOST_SAVES + 1):
        if len(during) >= FEWEST_STEPS:
            break
        without += [_step_s(ours, tokens) for _ in range(2)]
        ours.start(number)
        while ours.checkpoints.is_saving:
            seconds = _step_s(ours, tokens)
            (during if ours.checkpoints.is_busy else partly).append(seconds)
            while ours.checkpoints.is_saving and not ours.checkpoints.is_busy:
                ours.checkpoints.advance()
        without += [_step_s(ours, tokens) for _ in range(2)]
    share = checkpoint_bytes(config) // ours.engine.groups.layout.world_size
    beside: list[tuple[float, float]] = []
    for _ in range(MOST_SAVES):
        with _another_process_writes(folder / "bare", share) as writes:
            while writes():
                beside.append(_step_s(ours, tokens))
        without += [_step_s(ours, tokens) for _ in range(2)]
    destroy_groups()
    during += partly if len(during) < FEWEST_STEPS else []
    return {
        "step_s": _median([wall_s for wall_s, _ in without]),
        "step_while_writing_s": _median([wall_s for wall_s, _ in during]),
        "step_beside_bare_write_s": _median([wall_s for wall_s, _ in beside]),
        "step_cpu_s": _median([cpu_s for _, cpu_s in without]),
        "step_while_writing_cpu_s": _median([cpu_s for _, cpu_s in during]),
        "num_steps": len(without),
        "num_steps_while_writing": len(during),
        "num_steps_beside_bare_write": len(beside),
    }


_BARE_WRITE = """
import os, sys
path, num_bytes = sys.argv[1], int(sys.argv[2])
block = memoryview(os.urandom(1 << 24))
with open(path, "wb", buffering=0) as file:
    print("begins", flush=True)
    while num_bytes > 0:
        num_bytes -= file.write(block[:num_bytes])
    os.fsync(file.fileno())
os.unlink(path)
"""


@contextmanager
def _another_process_writes(path: Path, num_bytes: int) -> Iterator[Callable[[], bool]]:
    """A block beside which another process writes that many bytes, and no more: what any save costs at least.

    Yields a function that says whether it still writes.
    """
    command = [sys.executable, "-S", "-c", _BARE_WRITE, str(path), str(num_bytes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield lambda: process.poll() is None


def _step_s(ours: Ours, tokens: torch.Tensor) -> tuple[float, float]:
    return _seconds(ours.engine.groups, lambda: ours.engine.train_step(tokens, tokens))


def _groups(config: Config, peers: Path | None) -> Groups:
    torch.set_num_threads(1)
    if peers is not None:
        sys.path.append(str(peers))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(peers)]))
    return init_groups(Layout.from_config(config.parallel), "cpu", timeout_s=300.0)


def _save(contest: Contestant, groups: Groups, number: int) -> tuple[tuple[float, float], float]:
    """Seconds until training may continue, as `_seconds` returns them, and until all files are on the disk."""
    dist.barrier(group=groups.cpu)
    start_s = time.perf_counter()
    stall = _seconds(groups, lambda: contest.start(number))
    contest.finish()
    for path in (contest.folder, *contest.folder.rglob("*")):  # some libraries do not
        if path.exists():
            sync(path)
    dist.barrier(group=groups.cpu)
    return stall, time.perf_counter() - start_s


def _clear(folder: Path, groups: Groups) -> None:
    dist.barrier(group=groups.cpu)
    if groups.rank == 0:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    dist.barrier(group=groups.cpu)


def _seconds(groups: Groups, work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds that some work takes when all ranks begin it together, and seconds of CPU of this thread."""
    dist.barrier(group=groups.cpu)
    start_s, start_cpu_s = time.perf_counter(), time.thread_time()
    work()
    return time.perf_counter() - start_s, time.thread_time() - start_cpu_s


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


class _Memory:
    """Host memory of this process, from now on, and of the processes that it has started."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM becomes VmRSS
        self._before, self._before_of_children = _status("self")["VmRSS"], _anonymous_of_children()

    def extra_bytes(self) -> float:
        """The most that this process has had beyond what it had at first, and what its children have more than then.

        Memory that it shares with its children counts once.
        """
        return _status("self")["VmHWM"] - self._before + _anonymous_of_children() - self._before_of_children


def _anonymous_of_children() -> float:
    return sum(_status(str(child.pid))["RssAnon"] for child in psutil.Process().children(recursive=True))


def _status(pid: str) -> dict[str, float]:
    """The sizes in /proc/PID/status, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    pairs = [line.split(":") for line in lines if line.endswith(" kB")]
    return {name: 1024.0 * int(size.split()[0]) for name, size in pairs}
