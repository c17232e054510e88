"""The device of a rank: refused if it is not there, or if rank 0 uses one of another kind."""

import gc
import os
import subprocess
import sys
import weakref

import pytest
import torch
import torch.distributed as dist

from foretrain.parallel import shim
from foretrain.parallel.groups import check_same_device, init_groups
from foretrain.parallel.layout import Layout


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


@pytest.mark.parametrize("choice", ["auto", "cuda"])
def test_each_rank_of_a_machine_has_a_gpu_of_its_own(four_gpus: None, choice: str) -> None:
    assert [shim.device_of(choice, rank).index for rank in range(4)] == [0, 1, 2, 3]


def test_more_ranks_than_gpus_are_refused(four_gpus: None) -> None:
    with pytest.raises(ValueError, match=r"LOCAL_RANK is 4, but torch sees only 4 CUDA devices.*train.device=cpu"):
        shim.device_of("auto", 4)
    assert shim.device_of("cpu", 4) == torch.device("cpu")


def test_a_rank_that_sees_its_own_gpu_alone_uses_it(four_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert shim.device_of("auto", 3) == torch.device("cuda", 0)


def test_a_gpu_that_is_asked_for_and_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="torch sees no CUDA device here"):
        shim.device_of("cuda", 0)


def test_a_rank_with_another_kind_of_device_than_rank_0_is_refused() -> None:
    store = dist.HashStore()
    check_same_device(store, 0, torch.device("cuda", 0))
    check_same_device(store, 1, torch.device("cuda", 1))
    with pytest.raises(ValueError, match=r"rank 2 on .* would use cpu, but rank 0 uses cuda: .*train.device"):
        check_same_device(store, 2, torch.device("cpu"))


def test_the_process_group_of_all_ranks_is_bound_to_the_gpu_of_the_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL then connects at once, and to the right device, and not at the first collective."""
    seen: dict[str, object] = {}

    class EnoughError(Exception):
        pass

    def init_process_group(backend: str, **options: object) -> None:
        seen.update(options, backend=backend)
        raise EnoughError

    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(shim, "device_of", lambda choice, local_rank: torch.device("cuda", 3))
    monkeypatch.setattr(shim, "install", lambda device: None)
    monkeypatch.setattr(dist, "init_process_group", init_process_group)
    with pytest.raises(EnoughError):
        init_groups(Layout(), "cuda", timeout_s=60.0)
    assert (seen["backend"], seen["device_id"]) == ("nccl", torch.device("cuda", 3))


ON_CPU = """
import os
os.environ["DS_ACCELERATOR"] = "cuda"  # as on a machine with a GPU, where DeepSpeed chooses it
import deepspeed, torch
from deepspeed.accelerator import get_accelerator
from foretrain.parallel import shim
assert get_accelerator().device_name() == "cuda"
shim.install(torch.device("cpu"))
assert get_accelerator().device_name() == "cpu"
"""


def test_a_run_on_cpus_of_a_machine_with_gpus_has_deepspeed_use_the_cpu() -> None:
    subprocess.run([sys.executable, "-c", ON_CPU], env=dict(os.environ), check=True)


def test_memory_of_objects_that_refer_to_each_other_is_freed() -> None:
    class Holder:
        pass

    holder = Holder()
    holder.itself, holder.weight = holder, torch.ones(2)  # type: ignore[attr-defined]
    weight = weakref.ref(holder.weight)  # type: ignore[attr-defined]
    gc.disable()
    try:
        del holder
        assert weight() is not None
        shim.free_memory()
    finally:
        gc.enable()
    assert weight() is None


def test_a_rank_without_a_gpu_starts_no_compiler_and_makes_no_temporary_folder() -> None:
    program = """
import sys
import torch
from foretrain.parallel import libraries, shim
from deepspeed.comm.torch import build_shm_op

seen = []
sys.addaudithook(lambda event, _: seen.append(event) if event in ("subprocess.Popen", "tempfile.mkdtemp") else None)
shim.install(torch.device("cpu"))
print(build_shm_op(), seen)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "None []"  # DeepSpeed may print warnings before
