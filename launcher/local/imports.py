"""Imports the heavy modules of a rank without their messages about a missing GPU or a missing optional kernel."""

import gc
import importlib
import os
import warnings
from collections.abc import Sequence

_MAY_TOUCH_GPU = ("deepspeed", "megatron", "foretrain.parallel.libraries")
"""Modules that may initialise CUDA when they are imported; no CUDA context survives a fork."""


def import_all(names: Sequence[str], *, will_fork: bool) -> list[str]:
    """Import modules, and return the names of those that failed. will_fork: do not touch CUDA."""
    # None of it is garbage. Collections during the imports would add a fifth to their CPU time, and each later one, for
    # which DeepSpeed asks often, would walk through all that was imported, for about a second of a rank.
    gc.disable()
    try:
        return _imported(names, will_fork)
    finally:
        gc.freeze()
        gc.enable()


def _imported(names: Sequence[str], will_fork: bool) -> list[str]:
    if any(name.startswith(_MAY_TOUCH_GPU) for name in names):
        if not _has_gpu():
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        elif will_fork:
            names = [name for name in names if not name.startswith(_MAY_TOUCH_GPU)]
    failed = []
    for name in names:
        try:
            with warnings.catch_warnings():
                # The warnings list the optional kernels that are missing, one by one, at each launch.
                warnings.simplefilter("ignore")
                importlib.import_module(name)
        except Exception:  # noqa: BLE001
            # Raised here, it would end the server without a message. Each rank imports the name again and reports it.
            failed.append(name)
    return failed


def _has_gpu() -> bool:
    # This asks NVML: CUDA itself would be initialised here, and then be unusable in every rank.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    import torch

    return torch.cuda.is_available()
