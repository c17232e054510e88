"""The number of ranks that this machine can run."""

import os
import subprocess
import sys

RANKS_PER_CORE = 8
"""A laptop can rehearse a small cluster, but a thousand ranks would stop it."""


def ranks_on_cores() -> int:
    """The ranks that the cores which this process may use can run."""
    return RANKS_PER_CORE * len(os.sched_getaffinity(0))


def num_gpus() -> int:
    """The GPUs that a process which starts now would see."""
    # In a process of its own: CUDA counts once in each, and a lost GPU would stay.
    command = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else 0
