"""What one rank measures of the saves of one contestant."""

import importlib
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist

from benchmarks.checkpoint.contestants import Contestant
from foretrain.configs.schema import Config
from foretrain.files import sync
from foretrain.parallel.groups import Groups, destroy_groups, init_groups
from foretrain.parallel.layout import Layout
from foretrain.trainer.checkpoint.space import checkpoint_bytes

NUM_SAVES = 3
"""Saves of a contestant in one process. The first is reported apart; of the others the fastest counts."""
NUM_COPIES = 2
"""Bare copies before each save; the fastest counts."""


def measure(contestant: str, config: Config, folder: Path, peers: Path | None) -> dict[str, float]:
    """What saves of a contestant ("module:class") cost on this rank. Raises ImportError if a library is missing."""
    groups = groups_of(config, peers)
    contest: Contestant = contestant_class(contestant)(config, groups, folder)
    share = checkpoint_bytes(config) // groups.layout.world_size
    source, target = torch.rand(share // 4), torch.ones(share // 4)
    copies, stalls, totals, cpu = [], [], [], []
    memory = _Memory()
    for number in range(NUM_SAVES):
        copies += [seconds(groups, lambda: target.copy_(source)) for _ in range(NUM_COPIES)]
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


def contestant_class(contestant: str) -> Any:
    """The class of a contestant, named as "module:class". Raises ImportError if a library is missing."""
    module, _, name = contestant.partition(":")
    return getattr(importlib.import_module(module), name)


def groups_of(config: Config, peers: Path | None) -> Groups:
    """The groups of this rank, which computes with one thread, and can import what is in the folder `peers`."""
    torch.set_num_threads(1)
    if peers is not None:
        sys.path.append(str(peers))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(peers)]))
    return init_groups(Layout.from_config(config.parallel), "cpu", timeout_s=300.0)


def _save(contest: Contestant, groups: Groups, number: int) -> tuple[tuple[float, float], float]:
    """Seconds until training may continue, as `seconds` returns them, and until all files are on the disk."""
    dist.barrier(group=groups.cpu)
    start_s = time.perf_counter()
    stall = seconds(groups, lambda: contest.start(number))
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


def seconds(groups: Groups, work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds that some work takes when all ranks begin it together, and seconds of CPU of this thread."""
    dist.barrier(group=groups.cpu)
    start_s, start_cpu_s = time.perf_counter(), time.thread_time()
    work()
    return time.perf_counter() - start_s, time.thread_time() - start_cpu_s


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
