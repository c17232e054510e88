"""How many trials this machine trains at a time, and on which of its GPUs."""

import os
from collections.abc import Mapping

from foretrain.configs.schema import Config
from foretrain.launcher.local.run import check_fits

VISIBLE = "CUDA_VISIBLE_DEVICES"


def places(config: Config, ranks: int, jobs: int | None) -> tuple[int, list[Mapping[str, str]]]:
    """How many trials of so many ranks run at a time, and what the environment of each place holds.

    `jobs`: so many; None: one for each core, or GPU, of a rank. With GPUs every place has its own, and they are shared
    where there are too few; without, every rank has its share of the cores. Raises ValueError for more ranks than this
    machine can hold.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"--jobs {jobs}: use 1 or more")
    gpus = [] if config.train.device == "cpu" else visible_gpus()
    cores = len(os.sched_getaffinity(0))
    jobs = jobs or max(1, (len(gpus) or cores) // ranks)
    check_fits(jobs * ranks)
    threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, cores // (jobs * ranks)))}
    if not gpus:
        return jobs, [threads]
    shares = [[gpus[(place * ranks + rank) % len(gpus)] for rank in range(ranks)] for place in range(jobs)]
    return jobs, [{**threads, VISIBLE: ",".join(share)} for share in shares]


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # initialises nothing here
    import torch

    num = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return named[:num] or [str(number) for number in range(num)]
