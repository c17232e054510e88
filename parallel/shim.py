"""The CPU shim: all that the libraries, which expect CUDA, need on a machine without a GPU.

It is imported before DeepSpeed and megatron-core. Nothing else in the project takes another path without a GPU.
"""

import gc
import os
import warnings

import torch


def device_of(choice: str, local_rank: int) -> torch.device:
    """The device of this rank for `train.device` = "auto", "cpu" or "cuda".

    Raises ValueError for cuda if there is no CUDA device, and if there is none for this rank.
    """
    if choice == "cuda" and not torch.cuda.is_available():
        raise ValueError("train.device = cuda, but torch sees no CUDA device here: use train.device=auto")
    if choice == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    num_devices = torch.cuda.device_count()
    if num_devices == 1:
        # A launcher may let each rank see its own GPU alone. If ranks share one instead, NCCL refuses it.
        return torch.device("cuda", 0)
    if local_rank >= num_devices:
        raise ValueError(
            f"LOCAL_RANK is {local_rank}, but torch sees only {num_devices} CUDA devices on this machine: start one "
            "rank for each device (parallel.dp, parallel.tp, parallel.pp), or use train.device=cpu"
        )
    return torch.device("cuda", local_rank)


def install(device: torch.device) -> None:
    """Make DeepSpeed and megatron-core work on `device`. Call once, before they are used."""
    # megatron-core calls collectives by names that torch is renaming.
    warnings.filterwarnings("ignore", message=".*is deprecated. Please use `torch.distributed", category=FutureWarning)
    # DeepSpeed takes its device from here, and not from torch.
    os.environ["LOCAL_RANK"] = str(device.index or 0)
    # gloo would connect every rank with every other one when a group is made: 511 sockets on each of 512 ranks.
    os.environ.setdefault("TORCH_GLOO_LAZY_INIT", "1")
    # torch keeps that many collectives, so that the report of a hang can say which of them a rank never entered.
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", "2000")
    _set_accelerator(device.type)
    from foretrain.parallel import libraries

    if device.type == "cuda":
        torch.cuda.set_device(device)
        return

    # Otherwise DeepSpeed compiles a shared-memory extension when it starts, and the machine may have no compiler. All
    # are named unusable, since reading its list makes DeepSpeed try the compiler in every rank, in a temporary folder
    # that a rank leaves if it is killed.
    libraries.deepspeed.ops.__compatible_ops__ = {}
    os.environ.pop("LOCAL_SIZE", None)  # it would start the same extension
    # megatron-core allocates sequence-parallel buffers on torch.cuda.current_device().
    torch.cuda.current_device = lambda: "cpu"  # type: ignore[assignment,return-value]


def _set_accelerator(kind: str) -> None:
    """Have DeepSpeed use this kind of device, even if it was imported before and has chosen another one."""
    os.environ["DS_ACCELERATOR"] = kind
    from deepspeed.accelerator import get_accelerator, set_accelerator
    from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
    from deepspeed.accelerator.cuda_accelerator import CUDA_Accelerator

    if get_accelerator().device_name() != kind:
        set_accelerator(CUDA_Accelerator() if kind == "cuda" else CPU_Accelerator())


def backend_of(device: torch.device) -> str:
    """The torch.distributed backend of the groups of a layout, which exchange tensors on this device."""
    return "nccl" if device.type == "cuda" else "gloo"


def free_memory() -> None:
    """Free the device memory of objects that nothing uses any more, also of those that refer to each other."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
