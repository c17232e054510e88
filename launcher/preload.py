"""Prepares the fork server: multiprocessing imports this module in it, once, before the first rank is forked.

Every rank inherits what happens here: the heavy modules already imported, signals held back until the rank is ready
for them, and the certainty that the server dies with the launcher. It is imported nowhere else.
"""

import importlib
import os
import signal
import warnings

from launcher.death import die_with_parent
from launcher.forkserver import PRELOAD_VARIABLE

HELD_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGUSR2})
"""Blocked here and unblocked by each rank, so that one sent while a rank starts is neither lost nor deadly."""

SERVER_PID = os.getpid()
"""Process id of the fork server, as its ranks inherit it."""

_MAY_TOUCH_GPU = ("deepspeed", "megatron")
"""These may initialise CUDA when imported, and no CUDA context survives a fork."""


def _has_gpu() -> bool:
    # Asks NVML: asking CUDA itself would initialise it here and make it unusable in every rank.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    import torch

    return torch.cuda.is_available()


def _import_all(names: list[str]) -> list[str]:
    """Import what is safe to import; return the names that failed."""
    if any(name.startswith(_MAY_TOUCH_GPU) for name in names):
        if _has_gpu():
            names = [name for name in names if not name.startswith(_MAY_TOUCH_GPU)]
        else:
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
    failed = []
    for name in names:
        try:
            with warnings.catch_warnings():
                # They tell which optional kernels are missing, one by one, at each launch.
                warnings.simplefilter("ignore")
                importlib.import_module(name)
        except Exception:  # noqa: BLE001
            # It would end the server without a word to the ranks: each imports the name again, and tells.
            failed.append(name)
    return failed


signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
die_with_parent()
FAILED = _import_all([name for name in os.environ.get(PRELOAD_VARIABLE, "").split(",") if name])
