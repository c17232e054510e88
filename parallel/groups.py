"""Process groups of a layout, on megatron-core's parallel_state, and the view of them that DeepSpeed asks for."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import product
from typing import Any

import torch
import torch.distributed as dist

from foretrain.parallel import shim
from foretrain.parallel.batch_share import BatchShare
from foretrain.parallel.cuda_environment import cuda_variables
from foretrain.parallel.layout import Layout
from foretrain.parallel.loopback import is_loopback, own_store, stay_on_loopback


class Groups:
    """This rank's place in the layout and its process groups.

    Attributes: `rank`, `device`, `layout`, `at` (Coordinates), `share` (its part of a batch), and the groups `tp`,
    `cp`, `pp`, `replicas` (the ranks of dp x cp, which hold the same parameters and see other tokens), `embedding`
    (the pipeline's two ends, which share tied embeddings; None on other ranks), `same_samples` (the ranks of tp x pp x
    cp, which train on the same samples; None if there is one), and `cpu` (all ranks). The last two are for Python
    objects and tensors in host memory. On GPUs, the other groups exchange device tensors only.
    """

    def __init__(self, layout: Layout, device: torch.device, timeout: timedelta) -> None:
        from megatron.core import parallel_state

        self.layout = layout
        self.device = device
        self.rank = dist.get_rank()
        self.at = layout.coordinates(self.rank)
        self.share = BatchShare(layout, self.at)
        with _one_group_for_the_same_ranks():
            parallel_state.initialize_model_parallel(
                layout.tp,
                layout.pp,
                context_parallel_size=layout.cp,
                create_gloo_process_groups=False,
                distributed_timeout_minutes=timeout / timedelta(minutes=1),
            )
        self.tp: dist.ProcessGroup = parallel_state.get_tensor_model_parallel_group()
        self.cp: dist.ProcessGroup = parallel_state.get_context_parallel_group()
        self.pp: dist.ProcessGroup = parallel_state.get_pipeline_model_parallel_group()
        self.replicas: dist.ProcessGroup = parallel_state.get_data_parallel_group(with_context_parallel=True)
        places = [dist.get_rank(group) for group in (self.pp, self.replicas, self.cp, self.tp)]
        expected = [self.at.pp, self.at.dp * layout.cp + self.at.cp, self.at.cp, self.at.tp]
        assert places == expected, "megatron-core numbers the ranks in another order"
        self.embedding = self._embedding_group(timeout)
        # NCCL cannot exchange host tensors. One group for them is enough: a gloo group costs sockets on every rank.
        is_cuda = device.type == "cuda"
        self.cpu: dist.ProcessGroup | None = _new_group(None, timeout, "gloo") if is_cuda else None
        self.same_samples = self._same_samples_group(timeout)

    def _same_samples_group(self, timeout: timedelta) -> dist.ProcessGroup | None:
        layout, mine = self.layout, None
        if layout.world_size == layout.dp:
            return None
        for dp in range(layout.dp):
            places = product(range(layout.pp), range(layout.cp), range(layout.tp))
            ranks = sorted(layout.rank(pp, dp, tp, cp) for pp, cp, tp in places)
            group = _new_group(ranks, timeout, "gloo")  # a collective: every rank makes every group
            if dp == self.at.dp:
                mine = group
        return mine

    def _embedding_group(self, timeout: timedelta) -> dist.ProcessGroup | None:
        """Two-rank groups of the pipeline ranks that hold the first and the last stage; None elsewhere."""
        ends = [self.layout.stage_to_pp_rank(0), self.layout.stage_to_pp_rank(self.layout.num_stages - 1)]
        if ends[0] == ends[1]:
            return None
        mine = None
        for dp in range(self.layout.dp):
            for cp, tp in product(range(self.layout.cp), range(self.layout.tp)):
                ranks = [self.layout.rank(pp, dp, tp, cp) for pp in ends]
                group = _new_group(ranks, timeout)  # a collective: every rank makes every group
                if self.rank in ranks:
                    mine = group
        return mine


class ModelParallelUnit:
    """What DeepSpeed takes as `mpu`: dp x cp as its data-parallel group, tp x pp as one model-parallel group."""

    def __init__(self, groups: Groups) -> None:
        self._groups = groups

    def __getattr__(self, name: str) -> Any:
        from megatron.core import parallel_state

        return getattr(parallel_state, name)

    def get_data_parallel_group(self) -> dist.ProcessGroup:
        return self._groups.replicas

    def get_data_parallel_world_size(self) -> int:
        return self._groups.replicas.size()

    def get_data_parallel_rank(self) -> int:
        return self._groups.replicas.rank()

    def get_model_parallel_world_size(self) -> int:
        return self._groups.layout.tp * self._groups.layout.pp

    def get_model_parallel_rank(self) -> int:
        return self._groups.at.pp * self._groups.layout.tp + self._groups.at.tp


def init_groups(layout: Layout, device_choice: str, timeout_s: float) -> Groups:
    """Connect to the other ranks, and make the process groups of the layout.

    Reads RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; a single process needs none of them. May be called
    again, by all ranks, with another layout of as many ranks; the groups of the layout before are then destroyed.
    """
    if device_choice != "cpu":
        os.environ.update(cuda_variables(layout, os.environ))
    device = shim.device_of(device_choice, int(os.environ.get("LOCAL_RANK", "0")))
    timeout = timedelta(seconds=timeout_s)
    if dist.is_initialized():
        _destroy_layout()
        return Groups(layout, device, timeout)
    shim.install(device)
    store: dist.Store
    if "RANK" in os.environ:
        if is_loopback(os.environ.get("MASTER_ADDR", "")):
            stay_on_loopback(os.environ)
        store, rank, world_size = _meet(timeout)
        # torchrun starts ranks again on the store of the attempt before.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        check_same_device(dist.PrefixStore(f"foretrain/{attempt}", store), rank, device)
    else:
        store, rank, world_size = dist.HashStore(), 0, 1
    dist.init_process_group(
        shim.backend_of(device),
        store=dist.PrefixStore("default_pg", store),
        rank=rank,
        world_size=world_size,
        timeout=timeout,
        device_id=device if device.type == "cuda" else None,
    )
    # Groups made from now on connect when they are used: megatron-core makes thousands of them in large worlds.
    dist.group.WORLD.bound_device_id = None  # type: ignore[union-attr]
    return Groups(layout, device, timeout)


def _meet(timeout: timedelta) -> tuple[dist.Store, int, int]:
    """The store at which the ranks meet, this rank, and their number, as the environment says."""
    store = own_store(timeout)
    if store is not None:
        return store, 0, int(os.environ["WORLD_SIZE"])
    met: tuple[dist.Store, int, int] = next(dist.rendezvous("env://", timeout=timeout))
    return met


def check_same_device(store: dist.Store, rank: int, device: torch.device) -> None:
    """Raise ValueError unless rank 0 uses the same kind of device: ranks of two kinds would wait for each other."""
    if rank == 0:
        store.set("device", device.type)
        return
    of_rank_0 = store.get("device").decode()
    if of_rank_0 != device.type:
        raise ValueError(
            f"rank {rank} on {socket.gethostname()} would use {device.type}, but rank 0 uses {of_rank_0}: check the "
            "GPUs of the nodes, or set train.device to cuda or cpu"
        )


def destroy_groups() -> None:
    """Destroy every process group: the process is then a single one again."""
    _destroy_layout()
    dist.destroy_process_group()


_of_layout: list[dist.ProcessGroup] = []
"""The groups of the present layout in which this rank is."""


def _new_group(
    ranks: list[int] | None, timeout: timedelta | None, backend: str | None = None, description: str | None = None
) -> dist.ProcessGroup:
    """A group that ends with the layout. All ranks of the world must call it, also those that are not in `ranks`."""
    group = dist.new_group(ranks, timeout=timeout, backend=backend, group_desc=description)
    if group is not dist.GroupMember.NON_GROUP_MEMBER:
        _of_layout.append(group)
    return group


_USED = (
    "TENSOR_MODEL_PARALLEL_GROUP",
    "PIPELINE_MODEL_PARALLEL_GROUP",
    "CONTEXT_PARALLEL_GROUP",
    "DATA_PARALLEL_GROUP_WITH_CP",
)
"""megatron-core's descriptions of the groups that are used."""


@contextmanager
def _one_group_for_the_same_ranks() -> Iterator[None]:
    """Have megatron-core make one group for each set of ranks, and the groups of _USED apart from those.

    Its own code makes more than 50 for each rank, most of them for kinds of parallelism that are not used here. On CPUs
    each has a thread that wakes up a hundred times a second. Groups that are used stay apart even if they have the same
    ranks, so that the collectives of one need not wait for those of another.
    """
    from megatron.core import parallel_state

    made: dict[tuple[str, tuple[int, ...]], dist.ProcessGroup] = {}
    original = parallel_state.create_group

    def create_group(
        ranks: list[int], timeout: timedelta | None = None, group_desc: str = "", **_: Any
    ) -> dist.ProcessGroup:
        key = (group_desc if group_desc in _USED else "", tuple(ranks))
        if key not in made:
            made[key] = _new_group(list(ranks), timeout, description=group_desc)
        return made[key]

    parallel_state.create_group = create_group
    try:
        yield
    finally:
        parallel_state.create_group = original
    assert {kind for kind, _ in made} >= {*_USED}, "megatron-core describes its groups in other words"


def _destroy_layout() -> None:
    """Destroy the groups of the layout; megatron-core's own function only forgets them."""
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()
    while _of_layout:
        dist.destroy_process_group(_of_layout.pop())
