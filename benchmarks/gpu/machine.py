"""A description of this machine, without names of hosts, users and folders.

`python -m benchmarks.gpu.machine` prints it as JSON. The acceptance program asks in a process of its own, because a
question to CUDA takes memory of the first GPU until the process ends.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from typing import Any

import psutil

MAX_RANKS = 8
CPU_RANKS = 2
"""Ranks of a trial of the program itself, without a GPU."""


def describe() -> dict[str, Any]:
    """GPUs, versions and sizes. A value that is not there is None."""
    import torch

    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = [torch.cuda.get_device_properties(number) for number in range(num_gpus)]
    return {
        "gpus": [{"name": gpu.name, "memory_gib": round(gpu.total_memory / 2**30, 1)} for gpu in gpus],
        "num_gpus": num_gpus,
        "driver": _driver(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if num_gpus else None,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "num_cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }


def ask() -> dict[str, Any]:
    """`describe()`, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.gpu.machine"]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found


def ranks_for(num_gpus: int) -> int:
    """The number of ranks for that many GPUs: the largest of 1, 2, 4 and 8 that they suffice for; 0 without a GPU."""
    return max((ranks for ranks in (1, 2, 4, MAX_RANKS) if ranks <= num_gpus), default=0)


def file_name(machine: dict[str, Any], device: str, num_ranks: int) -> str:
    """The name of the results file of a machine, such as gpu_nvidia_h100_80gb_hbm3_8.json with dashes."""
    name = machine["gpus"][0]["name"] if device == "cuda" else "no-gpu"
    return f"gpu_{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}_{num_ranks}.json"


def _driver() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    return next(iter(answer.stdout.split()), None) if answer.returncode == 0 else None


if __name__ == "__main__":
    print(json.dumps(describe()))
