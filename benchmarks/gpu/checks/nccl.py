"""The measurement of the links between GPUs: how fast all ranks reduce and gather 256 MiB.

`python -m benchmarks.gpu.checks.nccl DEVICE RANKS BYTES FILE` writes it as JSON.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.context import CheckFailedError, Context

if TYPE_CHECKING:
    import torch

NUM_BYTES = 256 * 2**20
NUM_TIMES, NUM_WARMUP = 20, 5
OPERATIONS = ("all_reduce", "reduce_scatter", "all_gather")


def nccl(context: Context, num_bytes: int = NUM_BYTES) -> dict[str, Any]:
    """Measure in ranks of their own."""
    out = context.folder / "rates.json"
    arguments = [context.device, str(context.num_ranks), str(num_bytes), str(out)]
    context.run("-m", "benchmarks.gpu.checks.nccl", *arguments)
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    wrong = [name for name in OPERATIONS if not found[name]["is_right"]]
    if wrong:
        raise CheckFailedError(f"{', '.join(wrong)}: the result is wrong", found)
    return found


def bus_bandwidth(operation: str, gb_s: float, num_ranks: int) -> float:
    """The rate of each rank's link, from bytes of the larger side over seconds.

    This is the formula of nccl-tests (doc/PERFORMANCE.md): an all-reduce moves 2 (n - 1) / n of its bytes over a link,
    and the two halves that it is made of move (n - 1) / n each. So it does not depend on the number of ranks.
    """
    return gb_s * (2 if operation == "all_reduce" else 1) * (num_ranks - 1) / num_ranks


def summary(seconds: dict[str, list[float]], num_bytes: int, num_ranks: int) -> dict[str, Any]:
    """Median rates of each operation, in GB/s."""
    measured: dict[str, Any] = {"num_bytes": num_bytes, "num_ranks": num_ranks}
    for operation, times in seconds.items():
        gb_s = num_bytes / median(times) / 1e9
        bus = bus_bandwidth(operation, gb_s, num_ranks)
        measured[operation] = {"gb_s": round(gb_s, 2), "bus_gb_s": round(bus, 2)}
    return measured


def measure(device: str, num_bytes: int) -> tuple[dict[str, list[float]], dict[str, bool]]:
    """On each rank: the seconds of each operation, and whether its result is right."""
    import torch
    import torch.distributed as dist

    rank, size, place = _connect(device)
    num = num_bytes // 4 // size * size
    large, part = torch.empty(num, device=place), torch.empty(num // size, device=place)
    ranks = torch.arange(1, size + 1, dtype=torch.float32, device=place)
    # Each result is that of the first call: a repeated all-reduce sums its own result.
    large.fill_(rank + 1)
    dist.all_reduce(large)
    right = {"all_reduce": bool((large == ranks.sum()).all())}
    large.zero_()
    seconds = {"all_reduce": _repeated(lambda: dist.all_reduce(large), device)}
    large.fill_(rank + 1)
    seconds["reduce_scatter"] = _repeated(lambda: dist.reduce_scatter_tensor(part, large), device)
    right["reduce_scatter"] = bool((part == ranks.sum()).all())
    part.fill_(rank + 1)
    seconds["all_gather"] = _repeated(lambda: dist.all_gather_into_tensor(large, part), device)
    right["all_gather"] = bool((large.view(size, -1) == ranks[:, None]).all())
    dist.destroy_process_group()
    return seconds, right


def _connect(device: str) -> "tuple[int, int, torch.device]":
    """Connect all ranks. Returns the number of this rank, the number of ranks, and this rank's device."""
    import torch
    import torch.distributed as dist

    place = torch.device(device, int(os.environ["LOCAL_RANK"])) if device == "cuda" else torch.device("cpu")
    if device == "cuda":
        torch.cuda.set_device(place)
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        timeout=timedelta(minutes=2),
        device_id=place if device == "cuda" else None,
    )
    return dist.get_rank(), dist.get_world_size(), place


def _repeated(operation: Callable[[], object], device: str) -> list[float]:
    """Seconds of each call, without those of the warm-up."""
    return [_timed(operation, device) for _ in range(NUM_WARMUP + NUM_TIMES)][NUM_WARMUP:]


def _timed(operation: Callable[[], object], device: str) -> float:
    import torch
    import torch.distributed as dist

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    dist.barrier()
    wait()
    started_s = time.perf_counter()
    operation()
    wait()
    return time.perf_counter() - started_s


def main(device: str, num_ranks: int, num_bytes: int, out: Path) -> None:
    """Measure on that many ranks of this machine, and write the summary: of each call, the slowest rank counts."""
    from foretrain.launcher.local.run import call_local

    found = call_local("benchmarks.gpu.checks.nccl:measure", (device, num_bytes), num_ranks, timeout_s=300.0)
    slowest = {
        name: [max(times) for times in zip(*(each[0][name] for each in found), strict=True)] for name in OPERATIONS
    }
    measured = summary(slowest, num_bytes, num_ranks)
    for name in OPERATIONS:
        measured[name]["is_right"] = all(right[name] for _, right in found)
    out.write_text(json.dumps(measured), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
