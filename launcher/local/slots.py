"""How many calls this machine runs at a time, and on which of its cores and GPUs."""

import os
from collections.abc import Mapping

from foretrain.launcher.local.run import check_fits

VISIBLE = "CUDA_VISIBLE_DEVICES"


def local_slots(ranks: int, *, on_gpus: bool, jobs: int | None = None) -> list[Mapping[str, str]]:
    """For each call of `ranks` ranks that runs at a time, what it adds to the environment of its ranks.

    `jobs` is the number of calls; None: one for each core or GPU that a rank can have. Every slot has its own GPUs, and
    shares them with others if there are too few. Without GPUs every rank has its share of the cores. Raises ValueError
    for more ranks than this machine can hold.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"--jobs {jobs}: use 1 or more")
    gpus = visible_gpus() if on_gpus else []
    if 0 < len(gpus) < ranks:
        raise ValueError(
            f"{ranks} ranks need a GPU each, and this machine has {len(gpus)}: choose a smaller layout, or set "
            "train.device=cpu"
        )
    cores = len(os.sched_getaffinity(0))
    jobs = jobs or max(1, (len(gpus) or cores) // ranks)
    check_fits(jobs * ranks)
    threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, cores // (jobs * ranks)))}
    if not gpus:
        return [threads] * jobs
    shares = [[gpus[(slot * ranks + rank) % len(gpus)] for rank in range(ranks)] for slot in range(jobs)]
    return [{**threads, VISIBLE: ",".join(share)} for share in shares]


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, in the notation of CUDA_VISIBLE_DEVICES."""
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # so that the question does not initialize CUDA here
    import torch

    num = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return named[:num] or [str(number) for number in range(num)]
