"""What torch's own distributed code, DeepSpeed and this project's data path need to run on fake tensors.

Everything here replaces what needs values or other ranks. It holds for the rest of the process.
"""

import types
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.distributed.checkpoint.state_dict_saver import AsyncSaveResponse

from foretrain.configs.schema import Config
from foretrain.parallel.layout import Layout
from foretrain.scaling.fake_cuda.watch import watch


def install() -> None:
    """Replace what does not depend on the config. Call it once, after the device is installed."""
    _connect_groups()
    _exchange_objects()
    _let_modules_move()
    _pin_memory()
    _find_segments()
    _trust_other_ranks()
    _save_nothing()


def expect_shapes(config: Config, layout: Layout) -> None:
    """Answer pipeline stages in the place of their neighbours: every stage hands on activations (L, B, D)."""
    from torch.distributed import pipelining

    stages: Any = pipelining
    model = config.model
    shape = (
        model.seq_len // layout.cp // (layout.tp if layout.sp else 1),
        config.train.micro_batch_size,
        model.d_model,
    )
    dtype = torch.bfloat16 if config.train.precision == "bf16" else torch.float32

    def receive(self: Any, source: int) -> Any:
        activations = torch.empty(shape, device="cuda", dtype=dtype)
        if source > self.stage_index:
            return stages.stage._StageBackwardMeta(backward_metas=stages._utils.extract_tensor_metas((activations,)))
        metas = stages._utils.extract_tensor_metas((activations.requires_grad_(),))
        return stages.stage._StageForwardMeta(forward_metas=metas)

    def agree(self: Any, held: Any, *args: Any) -> None:
        for each in held:
            each._inference_mode = stages.stage.InferenceMode.DYNAMIC

    stages.stage.PipelineStage._recv_meta = receive
    stages.stage.PipelineStage._send_meta = lambda self, meta, target: None
    stages.schedules._PipelineSchedule._warmup_p2p = agree


def _connect_groups() -> None:
    """Give every group the backend of the world, which connects to no other rank."""
    new_group = dist.new_group

    def fake_group(*args: Any, backend: str | None = None, **kwargs: Any) -> dist.ProcessGroup:
        return new_group(*args, **kwargs)

    dist.new_group = fake_group


def _exchange_objects() -> None:
    """Other ranks send the same objects as this one."""
    from torch.distributed import distributed_c10d

    def all_gather_object(found: list[Any], mine: Any, group: dist.ProcessGroup | None = None) -> None:
        watch().exchange_objects("all_gather_object", group)
        found[:] = [mine] * len(found)

    def barrier(group: dist.ProcessGroup | None = None, *args: Any, **kwargs: Any) -> None:
        watch().exchange_objects("barrier", group)

    for module in (dist, distributed_c10d):
        module.all_gather_object, module.barrier = all_gather_object, barrier  # type: ignore[attr-defined]


def _let_modules_move() -> None:
    """Let Module.to replace fake parameters, which torch swaps: with weak references, and with their attributes.

    Other parameters stay the same objects, so that marks on them, such as megatron-core's of a shard, stay too.
    """
    from torch.optim import optimizer

    blind = SimpleNamespace(getweakrefs=lambda tensor: [])
    original = torch.utils.swap_tensors
    assert isinstance(original, types.FunctionType)
    swap = types.FunctionType(original.__code__, {**original.__globals__, "weakref": blind})

    def swap_tensors(old: Tensor, new: Tensor) -> None:
        marks = dict(vars(old))
        swap(old, new)
        for name in marks.keys() - vars(old).keys():
            setattr(old, name, marks[name])

    torch.utils.swap_tensors = swap_tensors
    # Optimizers update many tensors with one kernel on CUDA, if these are tensors and nothing else.
    optimizer._foreach_supported_types.append(FakeTensor)


def _pin_memory() -> None:
    def pin_memory(self: Tensor, device: Any = None) -> Tensor:
        return watch().pin(self)

    def is_pinned(self: Tensor, device: Any = None) -> bool:
        return watch().storages.is_pinned(self)

    torch.Tensor.pin_memory, torch.Tensor.is_pinned = pin_memory, is_pinned  # type: ignore[method-assign,assignment]


def _find_segments() -> None:
    """Find the segments of packed samples from the values of their positions; only then copy them to the device."""
    from foretrain.parallel.segments import Segments
    from foretrain.parallel.transfer import to_device

    original = Segments.of.__func__  # type: ignore[attr-defined]

    def of(cls: type[Segments], positions_BL: Tensor, device: torch.device) -> Segments:
        assert not isinstance(positions_BL, FakeTensor), "the positions of a batch have lost their values"
        with watch().paused(), unset_fake_temporarily():
            found = original(cls, positions_BL, torch.device("cpu"))
        rows_R, places_T = (to_device(x, device) for x in (found.rows_R, found.places_T))
        return cls(found.stacks, rows_R, places_T)

    Segments.of = classmethod(of)  # type: ignore[method-assign,assignment]


def _trust_other_ranks() -> None:
    """ZeRO-3 compares plain numbers with those of rank 0; here there is no rank 0."""
    from deepspeed.runtime.zero import partition_parameters, partitioned_param_coordinator, stage3, utils

    for module in (utils, partition_parameters, partitioned_param_coordinator, stage3):
        for name in ("assert_ints_same_as_other_ranks", "assert_lst_len_same_as_other_ranks"):
            if hasattr(module, name):
                setattr(module, name, lambda *args, **kwargs: None)


def _save_nothing() -> None:
    """Checkpoints end where torch would write or read files: fake tensors have no values to write."""
    from foretrain.trainer.checkpoint import files, loading, plans, staging

    def async_save(state: Any, async_stager: staging.Staging, **_: Any) -> AsyncSaveResponse:
        async_stager.stage(state)
        done: Future[None] = Future()
        done.set_result(None)
        return AsyncSaveResponse(staging_completion=done, upload_completion=done)

    def publish(self: files.Checkpoints, folder: Path, target: Path, *_: Any) -> None:
        target.mkdir()

    def read(path: Path, tensors: Any, plan: plans.ReadPlan, *_: Any) -> None:
        for part in plan.parts:
            part.values.detach().copy_(torch.empty(part.box.sizes))

    files.dcp = SimpleNamespace(async_save=async_save)  # type: ignore[assignment]
    files.Checkpoints.write_rest = publish  # type: ignore[method-assign,assignment]
    staging.alone = lambda tensor: tensor
    staging.pin = lambda tensor: None
    loading.read_from = read  # type: ignore[assignment]


def forget_rank() -> None:
    """Destroy every process group, and forget what is kept for a process: the next rank may be of another layout."""
    from deepspeed.comm import comm
    from deepspeed.utils import groups as deepspeed_groups

    from foretrain.parallel.groups import destroy_groups
    from foretrain.trainer.model.rope import rope_tables

    if dist.is_initialized():
        destroy_groups()
    rope_tables.cache_clear()
    comm.cdb = None
    for name in ("_WORLD_GROUP", "_ZERO_PARAM_INTRA_PARALLEL_GROUP", "mpu"):
        setattr(deepspeed_groups, name, None)
    deepspeed_groups._ALL_TO_ALL_GROUP = {}
