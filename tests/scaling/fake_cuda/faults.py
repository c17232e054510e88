"""Faults, planted into the code that a rank runs, which a record must show."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from foretrain.parallel.engine import Engine
from foretrain.trainer.model import parts

NUM_REDUCED = 1000
"""Elements of the tensor that is reduced."""
NUM_COPIED = 9
"""Elements of the tensor that is copied; pinned memory has room for 16 of them."""
NUM_KEPT = 2**30
"""Bytes of the tensor that is kept."""


Planted = Callable[[], AbstractContextManager[None]]


def for_each_microbatch(act: Callable[[torch.Tensor], object]) -> Planted:
    """Calls `act` with the logits of each micro-batch."""

    @contextmanager
    def planted() -> Iterator[None]:
        original = Engine._loss

        def loss(self: Engine, logits: torch.Tensor, *args: Any) -> torch.Tensor:
            act(logits.detach())
            return original(self, logits, *args)

        with mock.patch.object(Engine, "_loss", loss):
            yield

    return planted


@for_each_microbatch
def wait(logits: torch.Tensor) -> None:
    """Each way in which the host can wait, once."""
    logits[0, 0, 0].item()
    logits[logits > 0]
    logits.cpu()
    torch.ones(logits.shape[-1]).to(logits.device)
    torch.cuda.synchronize()
    torch.cuda.current_stream().synchronize()


@for_each_microbatch
def multiply(logits: torch.Tensor) -> None:
    """A kernel, and a copy for which the host does not wait."""
    logits * 2
    torch.ones(NUM_COPIED).pin_memory().to(logits.device, non_blocking=True)


def at_each_step(act: Callable[[Engine, list[torch.Tensor]], object]) -> Planted:
    """Calls `act` when a step starts, with a list that lives as long as the fault."""

    @contextmanager
    def planted() -> Iterator[None]:
        original, kept = Engine.train_step, list[torch.Tensor]()

        def train_step(self: Engine, *args: Any) -> Any:
            act(self, kept)
            return original(self, *args)

        with mock.patch.object(Engine, "train_step", train_step):
            yield
        kept.clear()

    return planted


@at_each_step
def reduce_and_keep(engine: Engine, kept: list[torch.Tensor]) -> None:
    """An all-reduce in each step, and a tensor that the first step makes and nothing frees."""
    device = engine.groups.device
    dist.all_reduce(torch.zeros(NUM_REDUCED, device=device), group=engine.groups.replicas)
    if not kept:
        kept.append(torch.empty(NUM_KEPT, dtype=torch.uint8, device=device))


@contextmanager
def on_the_cpu() -> Iterator[None]:
    """The tables of rotary positions are made on the CPU and stay there."""
    original = parts.rope_tables
    with mock.patch.object(parts, "rope_tables", lambda *args: original(*args[:-1], torch.device("cpu"))):
        yield


FAULTS = {"wait": wait, "multiply": multiply, "reduce_and_keep": reduce_and_keep, "on_the_cpu": on_the_cpu}
"""By name, what plants a fault for as long as it is entered."""
