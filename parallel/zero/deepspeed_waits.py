"""The steps of DeepSpeed's ZeRO 3, ordered on the device where DeepSpeed lets the host wait.

DeepSpeed 0.19 waits once in each micro-batch, several times in each update, and for each copy of weights in host
memory. What is replaced here is right for the files with which it was read, and is refused with others.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foretrain.parallel.groups import Groups
from foretrain.parallel.zero import grad_norm
from foretrain.parallel.zero.host_memory import pinned_like

VERSION = "0.19.8"
"""The version of DeepSpeed whose files were read."""
SOURCES = {
    "comm/coalesced_collectives.py": "7b545a32225b0315688b5fdcb5a4841705ff94d80d858340d3c8bb232bf5897e",
    "zero/parameter_offload.py": "7fec7e04a5d00a56ff88029242ea12c3dcd1a48d1c08aa868137d24f01efe340",
    "zero/partition_parameters.py": "c7866c302ef1a9757b0c437254e369f8934a2f7ceb371f6f7e54a5391d10c311",
    "zero/partitioned_param_coordinator.py": "a43fd966c88dc3699f5b18e2bfe51fac222e79365664addce9ed485d617a78d0",
    "zero/stage3.py": "4ff3fdb4cbabaddfeaa866e43785b49a69cdfe35db4e0ceda6f1b432b6fbf9d7",
}
"""SHA-256 of the files in deepspeed/runtime that say what each stream does, and when memory is freed."""


def check_sources(sources: Mapping[str, str] = SOURCES) -> None:
    """Raise RuntimeError if a file of the installed DeepSpeed is not the one that was read; `sources` as SOURCES."""
    spec = find_spec("deepspeed")
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent / "runtime"
    other = [name for name, known in sources.items() if _sha256(folder / name) != known]
    if other:
        raise RuntimeError(
            f"ZeRO 3 replaces parts of DeepSpeed {VERSION}, and DeepSpeed {version('deepspeed')} is installed, with "
            f"other contents of {', '.join(other)}: install deepspeed=={VERSION}, or use parallel.zero_stage=2"
        )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


class OrderedSteps:
    """The ends of micro-batches and the updates of an optimizer of DeepSpeed's ZeRO 3, in place of its own methods.

    Gradients are reduced on one stream, and weights are gathered on another. Everything else is on the current stream;
    without `overlap_comm`, the three are one. Where DeepSpeed lets the host wait, here one stream waits for another.
    """

    def __init__(self, optimizer: Any, groups: Groups, clip_norm: float) -> None:
        check_sources()
        self._optimizer, self._groups, self._clip_norm = optimizer, groups, clip_norm
        self._norm: float | None = None
        """The global norm of the gradients of the next update; None if it is skipped."""
        self._reducing = optimizer.reduce_and_partition_stream
        self._gathering = optimizer.parameter_offload._DeepSpeedZeRoOffload__allgather_stream
        self._masters: list[Tensor] = optimizer.fp32_partitioned_groups_flat
        self._weights: list[Tensor] = optimizer.fp16_partitioned_groups_flat
        offload = optimizer.offload_optimizer
        self._staging = [pinned_like(each) if offload and each.is_cuda else None for each in self._weights]
        """From here, masters in host memory are copied to weights on a GPU."""
        if not offload:  # DeepSpeed would copy the sums of each group in each step
            sums = optimizer.grad_partitions_flat_buffer.split([len(weights) for weights in self._weights])
            for master, gradient in zip(self._masters, sums, strict=True):
                master.grad = gradient
        self.observer: Callable[[Tensor], None] | None = None
        """Called with this rank's gradient of each parameter in each micro-batch, before the sum over the replicas."""
        self._is_trial = False
        self._reduce = optimizer.reduce_ready_partitions_and_remove_grads
        optimizer.reduce_ready_partitions_and_remove_grads = self._take
        optimizer.independent_gradient_partition_epilogue = self._end_micro_batch
        optimizer.step = self._step
        if optimizer.offload_param:
            _copy_without_blocking(optimizer.module.parameters())
        _order_gathers_of_one_replica()

    def start(self, *, is_trial: bool) -> None:
        """Begin a step; in a trial, gradients are shown to the observer, and neither reduced nor kept."""
        self._is_trial = is_trial

    def _take(self, parameter: Any) -> None:
        """Take a gradient that a backward pass has made, while this rank still has all of it."""
        if self.observer is not None:
            self.observer(parameter.grad)
        if self._is_trial:
            parameter.grad = None
        else:
            self._reduce(parameter)

    def end_trial(self) -> None:
        """Let the optimizer's next step do nothing, after a step whose gradients were not reduced."""
        self._end_backward()
        self.reject()

    def _end_micro_batch(self) -> None:
        """Reduce what is left in the buckets.

        DeepSpeed then waits for the stream that reduces. That stream alone uses the buckets and the sums until the
        update. It waits for the current stream before it takes a gradient (`__add_grad_to_ipg_bucket`), and gradients
        that are freed then are recorded for it. So one micro-batch follows on another as one bucket on another.
        """
        optimizer = self._optimizer
        for dtype in optimizer.ipg_buckets:
            optimizer._DeepSpeedZeroOptimizer_Stage3__reduce_and_partition_ipg_grads(dtype)
        optimizer._epilogue_ran_this_backward = True  # the next forward pass starts another micro-batch

    def squared_grad_norm(self) -> Tensor:
        """This rank's part of the squared norm, on the device; behind it are all copies of gradients to the host."""
        self._end_backward()
        return grad_norm.sum_of_squares(self._counted(), self._groups.device)

    def _end_backward(self) -> None:
        """After the last backward pass of a step: forget its gathered weights, and let the next one begin a sum."""
        self._optimizer._pre_step()
        self._optimizer._partition_all_parameters()
        self._await(self._reducing)

    def accept(self, norm: float) -> None:
        """Let the optimizer's next step update the parameters, by gradients whose global norm is `norm`."""
        self._norm = norm

    def reject(self) -> None:
        """Let the optimizer's next step drop the gradients."""
        self._norm = None

    @torch.no_grad()
    def _step(self) -> None:
        """One update, or none. The host has waited for the norm."""
        optimizer = self._optimizer
        self._await(self._gathering)  # it may still read the weights
        if self._norm is not None:
            for number, master in enumerate(self._masters):
                assert master.grad is not None
                grad_norm.clip([master.grad], self._norm, self._clip_norm)
                optimizer._optimizer_step(number)
        if optimizer.offload_optimizer:
            optimizer.reset_cpu_buffers()
        self._share()

    def _counted(self) -> list[Tensor]:
        """The sums of gradients that this rank counts in the norm; with masters in host memory, their norms."""
        optimizer = self._optimizer
        trained = chain.from_iterable(optimizer.fp16_groups)
        counted = [each for each in trained if grad_norm.is_counted(each, self._groups)]
        if optimizer.offload_optimizer:
            norms = optimizer.norm_for_param_grads  # a rank whose part of a parameter is only padding has none
            return [norms[key] for key in map(optimizer.get_param_id, counted) if key in norms]
        sums = optimizer._DeepSpeedZeroOptimizer_Stage3__param_id_to_grad_partition
        return [sums[parameter.ds_id] for parameter in counted]

    @torch.no_grad()
    def take_masters(self) -> None:
        """Make the weights equal to masters that were overwritten. Every rank must call it."""
        self._optimizer._partition_all_parameters()
        if self._groups.device.type == "cuda":
            torch.cuda.synchronize(self._groups.device)  # weights in host memory may still be read
        self._share()

    def _share(self) -> None:
        """Write the masters into the weights, and gather those of which every replica keeps a copy."""
        for weights, master, staging in zip(self._weights, self._masters, self._staging, strict=True):
            # The copy before has left the staging memory: since then, the host has waited for the device.
            source = master if staging is None else staging.copy_(master)
            weights.copy_(source, non_blocking=True)
        persistent = self._optimizer.persistent_parameters
        if persistent:  # param.all_gather would wait for the device
            persistent[0].all_gather_coalesced(persistent).wait()
        self.order_gathers()

    def order_gathers(self) -> None:
        """After weights were written on the current stream: let the stream that gathers them wait for it.

        Nothing in DeepSpeed does, but that the host waits for the device.
        """
        if self._gathering is not None:
            self._gathering.wait_stream(torch.cuda.current_stream())

    def _await(self, stream: Any) -> None:
        """Let the current stream wait for another; on CPUs there are none."""
        if stream is not None:
            torch.cuda.current_stream().wait_stream(stream)


def _copy_without_blocking(parameters: Iterable[Any]) -> None:
    """Copy weights from pinned host memory to the device without a wait of the host.

    A copy is used on the stream that makes it. Updates write into the weights in host memory after that stream.
    """
    for parameter in parameters:
        parameter.ds_tensor.to = partial(parameter.ds_tensor.to, non_blocking=True)


def _order_gathers_of_one_replica() -> None:
    """Replace the waits of a replica that has no others: its weights are on the device, or copied to it.

    `fetch_sub_module` lets the current stream wait for the one that copies, before weights are used.
    """
    from deepspeed.runtime.zero.partition_parameters import (
        NoGatherCoalescedHandle,
        NoGatherHandle,
        ZeroParamStatus,
    )

    def wait(self: Any, **_: Any) -> None:
        if not self._NoGatherHandle__complete:
            self._NoGatherHandle__complete = True
            self._NoGatherHandle__param.ds_status = ZeroParamStatus.AVAILABLE

    def wait_for_all(self: Any, **_: Any) -> None:
        if not self._NoGatherCoalescedHandle__complete:
            self._NoGatherCoalescedHandle__complete = True
            for parameter in self._NoGatherCoalescedHandle__params:
                parameter.ds_status = ZeroParamStatus.AVAILABLE

    NoGatherHandle.wait, NoGatherCoalescedHandle.wait = wait, wait_for_all
