"""Ranks that stop in the middle of a run. Not a test module: each rank imports it."""

import os
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch.distributed as dist

from foretrain.data_pipeline.stream.batches import Batches
from foretrain.parallel.engine import Engine
from foretrain.parallel.exchanges import Exchanges
from foretrain.trainer.callbacks.consistency import ConsistencyCheck
from foretrain.trainer.callbacks.telemetry import Telemetry
from foretrain.trainer.checkpoint.files import Checkpoints
from foretrain.trainer.evaluation import Evaluation
from foretrain.trainer.run.rank import train_rank
from foretrain.trainer.shared_batches import SharedBatches
from tests.trainer.steps import before_each_step

STOPS_AT = 7
"""The step in which a rank stops: late enough for the watch to know how long a step takes."""

Matches = Callable[..., bool]


def in_group(label: str) -> Callable[[Engine], Matches]:
    """Collectives of a group of the layout."""
    return lambda engine: lambda *args, **kwargs: kwargs.get("group") is getattr(engine.groups, label)


def anything(engine: Engine) -> Matches:
    return lambda *args, **kwargs: True


def exchange(what: str, is_send: bool) -> Callable[[Engine], Matches]:
    return lambda engine: lambda self, found, *args, **kwargs: found == what and kwargs["is_send"] == is_send


PLACES: Mapping[str, tuple[Any, str, Callable[[Engine], Matches]]] = {
    "gradient reduction": (dist, "reduce_scatter_tensor", anything),
    "weight gathering": (dist, "all_gather_into_tensor", anything),
    "gradient sum": (dist, "all_reduce", in_group("replicas")),
    "tensor-parallel sum": (dist, "all_reduce", in_group("tp")),
    "exchange of heads": (dist, "all_to_all_single", anything),
    "sending activations": (Exchanges, "start", exchange("activations", is_send=True)),
    "asking for activations": (Exchanges, "start", exchange("activations", is_send=False)),
    "sending gradients": (Exchanges, "start", exchange("gradients", is_send=True)),
    "asking for gradients": (Exchanges, "start", exchange("gradients", is_send=False)),
    "batch sharing": (SharedBatches, "__next__", anything),
    "agreement on a stop": (Telemetry, "on_step", anything),
    "consistency check": (ConsistencyCheck, "after_step", anything),
    "evaluation": (Evaluation, "__call__", anything),
    "checkpoint": (Checkpoints, "start", anything),
}
"""Where a rank may stop: the function that it has not called yet, and with which arguments."""


def train_and_stop(run: Any, rank: int, place: str) -> None:
    """Train; in or after step STOPS_AT, `rank` stops itself just before the place."""
    owner, name, matching = PLACES[place]
    original = getattr(owner, name)
    is_due: Matches = lambda *args, **kwargs: False  # noqa: E731

    def stop_first(*args: Any, **kwargs: Any) -> Any:
        if is_due(*args, **kwargs):
            os.kill(os.getpid(), signal.SIGSTOP)
        return original(*args, **kwargs)

    def note(engine: Engine, number: int) -> None:
        nonlocal is_due
        if number == STOPS_AT and engine.groups.rank == rank:
            is_due = matching(engine)

    setattr(owner, name, stop_first)
    before_each_step(note)
    train_rank(run)


def train_and_block(run: Any, rank: int) -> None:
    """Train; in step STOPS_AT, `rank` waits in Python for something that never happens."""
    never = threading.Event()

    def block(engine: Engine, number: int) -> None:
        if number == STOPS_AT and engine.groups.rank == rank:
            never.wait()

    before_each_step(block)
    train_rank(run)


def train_and_starve(run: Any, rank: int, seconds: float) -> None:
    """Train; `rank` gets the batch of step STOPS_AT from storage only after a time."""
    read, number = Batches.batch, 0

    def read_slowly(batches: Batches, samples_consumed: int) -> Any:
        nonlocal number
        number += 1
        if number == STOPS_AT and int(os.environ["RANK"]) == rank:
            threading.Event().wait(seconds)
        return read(batches, samples_consumed)

    Batches.batch = read_slowly  # type: ignore[method-assign,assignment]
    train_rank(run)
