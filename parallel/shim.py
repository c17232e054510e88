"""The CPU shim: all that the libraries, which expect CUDA, need on a machine without a GPU.

It is imported before DeepSpeed and megatron-core. Nothing else in the project takes another path without a GPU.
"""

import os
import warnings

import torch


def device_of(choice: str, local_rank: int) -> torch.device:
    """The device of this rank for `train.device` = "auto", "cpu" or "cuda".

    Raises ValueError for cuda if there is no CUDA device.
    """
    if choice == "cuda" and not torch.cuda.is_available():
        raise ValueError("train.device = cuda, but torch sees no CUDA device here: use train.device=auto")
    if choice == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def install(device: torch.device) -> None:
    """Make DeepSpeed and megatron-core work on `device`. Call once, before they are used."""
    # megatron-core calls collectives by names that torch is renaming.
    warnings.filterwarnings("ignore", message=".*is deprecated. Please use `torch.distributed", category=FutureWarning)
    # DeepSpeed takes its device from here, and not from torch.
    os.environ["LOCAL_RANK"] = str(device.index or 0)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        # megatron-core overlaps tensor-parallel communication with matrix products by the order of kernel launches.
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
        return
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed.ops

    # Otherwise DeepSpeed compiles a shared-memory extension when it starts, and the machine may have no compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    os.environ.pop("LOCAL_SIZE", None)  # it would start the same extension
    # megatron-core allocates sequence-parallel buffers on torch.cuda.current_device().
    torch.cuda.current_device = lambda: "cpu"  # type: ignore[assignment,return-value]


def backend_of(device: torch.device) -> str:
    """The torch.distributed backend for a device: its own, and gloo for CPU tensors beside NCCL."""
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
