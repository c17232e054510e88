"""Imports the heavy modules of a rank without what they say when they find no GPU, or an optional kernel missing."""

import importlib
import os
import warnings
from collections.abc import Sequence

_MAY_TOUCH_GPU = ("deepspeed", "megatron")
"""These may initialise CUDA when imported, and no CUDA context survives a fork."""


def import_all(names: Sequence[str], *, will_fork: bool) -> list[str]:
    """Import what can be; return the names that failed. Where this process will fork, CUDA is left alone."""
    if any(name.startswith(_MAY_TOUCH_GPU) for name in names):
        if not _has_gpu():
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        elif will_fork:
            names = [name for name in names if not name.startswith(_MAY_TOUCH_GPU)]
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


def _has_gpu() -> bool:
    # Asks NVML: asking CUDA itself would initialise it here and make it unusable in every rank.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    import torch

    return torch.cuda.is_available()
