"""Ranks that stop in the middle of a run. Not a test module: each rank imports it."""

import os
import signal
import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.pipelining import schedules

from foretrain.data_pipeline.stream.batches import Batches
from foretrain.parallel.engine import Engine
from foretrain.parallel.exchanges import Exchanges
from foretrain.trainer.callbacks.consistency import ConsistencyCheck
from foretrain.trainer.callbacks.telemetry import Telemetry
from foretrain.trainer.checkpoint.files import Checkpoints
from foretrain.trainer.checkpoint.storage import CheckpointReader
from foretrain.trainer.evaluation import Evaluation
from foretrain.trainer.run.rank import train_rank
from foretrain.trainer.shared_batches import SharedBatches
from foretrain.trainer.watch.snapshot import snapshot
from tests.trainer.steps import before_each_step

STOPS_AT = 7
"""The step in which a rank stops: late enough for the watch to know how long a step takes."""
STOPPED = "stopped"
"""The folder of the run in which ranks write, before they stop, what they have entered."""

PRINTED = "printed.txt"
"""The file of the run to which the ranks print that wait for late data."""

Matches = Callable[..., bool]


def in_group(label: str) -> Callable[[Engine], Matches]:
    """Collectives of a group of the layout."""
    return lambda engine: lambda *args, **kwargs: kwargs.get("group") is getattr(engine.groups, label)


def anything(engine: Engine) -> Matches:
    return lambda *args, **kwargs: True


def exchange(what: str, *, is_send: bool, source: str = "") -> Callable[[Engine], Matches]:
    """Exchanges that carry `what`, from a certain stage or from any."""
    return lambda engine: (
        lambda self, found, found_source, *args, **kwargs: (
            found == what and source in found_source and kwargs["is_send"] == is_send
        )
    )


MEGATRON, DEEPSPEED = "megatron.core.tensor_parallel", "deepspeed.comm.torch:TorchBackend"
PLACES: Mapping[str, tuple[Any, str, Callable[[Engine], Matches]]] = {
    "gradient reduction": (dist, "reduce_scatter_tensor", anything),
    "weight gathering": (dist, "all_gather_into_tensor", anything),
    "gradient sum": (dist, "all_reduce", in_group("replicas")),
    "gathering by DeepSpeed": (DEEPSPEED, "all_gather_into_tensor", anything),
    "reduction by DeepSpeed": (DEEPSPEED, "reduce_scatter_tensor", anything),
    "tensor-parallel sum": (dist, "all_reduce", in_group("tp")),
    "gathering of the sequence": (f"{MEGATRON}.layers", "dist_all_gather_func", in_group("tp")),
    "scattering of the sequence": (f"{MEGATRON}.mappings", "dist_reduce_scatter_func", in_group("tp")),
    "sum of tied embeddings": (dist, "all_reduce", in_group("embedding")),
    "exchange of heads": (dist, "all_to_all_single", anything),
    "sending activations": (Exchanges, "start", exchange("activations", is_send=True)),
    "asking for activations": (Exchanges, "start", exchange("activations", is_send=False)),
    "sending gradients": (Exchanges, "start", exchange("gradients", is_send=True)),
    "asking for gradients": (Exchanges, "start", exchange("gradients", is_send=False)),
    "sending activations of stage 1": (Exchanges, "start", exchange("activations", is_send=True, source="stage 1 ")),
    "sending gradients of stage 2": (Exchanges, "start", exchange("gradients", is_send=True, source="stage 2 ")),
    "sending shapes": (Exchanges, "start", exchange("shapes of activations", is_send=True)),
    "batch sharing": (SharedBatches, "__next__", anything),
    "agreement on a stop": (Telemetry, "on_step", anything),
    "consistency check": (ConsistencyCheck, "after_step", anything),
    "evaluation": (Evaluation, "__call__", anything),
    "checkpoint": (Checkpoints, "start", anything),
}
"""Where a rank may stop: the function that it has not called yet, and with which arguments."""


def train_and_stop(run: Any, stops: Mapping[int, str]) -> None:
    """Train; in or after step STOPS_AT, each rank of `stops` stops itself just before its place."""

    def plant(engine: Engine, number: int) -> None:
        place = stops.get(engine.groups.rank)
        if number == STOPS_AT and place is not None:
            stop_before(place, engine, run.run_dir / STOPPED)

    before_each_step(plant)
    train_rank(run)


def stop_before(place: str, engine: Engine, record: Path) -> None:
    """Have this process stop itself when it is going to call a function, after it has noted what it has entered."""
    owner, name, matching = PLACES[place]
    if isinstance(owner, str):
        module, _, attribute = owner.partition(":")
        owner = import_module(module)
        owner = getattr(owner, attribute) if attribute else owner
    original, is_due, finish = getattr(owner, name), matching(engine), keep_exchanges()

    def stop_first(*args: Any, **kwargs: Any) -> Any:
        if is_due(*args, **kwargs):
            # What was started in the background ends before, so that the report does not depend on the moment.
            engine.zero.await_weights()
            finish()
            record.mkdir(exist_ok=True)
            snapshot(engine.groups, engine, STOPS_AT, place, 0.0, is_late=False).write(record)
            os.kill(os.getpid(), signal.SIGSTOP)
        return original(*args, **kwargs)

    setattr(owner, name, stop_first)


def keep_exchanges() -> Callable[[], None]:
    """A function that waits for the exchanges of pipelines that start from now on, and that nothing has waited for."""
    start, wait = schedules._batch_p2p, schedules._wait_batch_p2p
    pending: list[list[dist.Work]] = []

    def start_kept(*args: Any, **kwargs: Any) -> list[dist.Work]:
        pending.append(start(*args, **kwargs))
        return pending[-1]

    def wait_once(work: list[dist.Work]) -> None:
        pending[:] = [each for each in pending if each is not work]
        wait(work)

    def finish() -> None:
        while pending:
            wait_once(pending[0])

    schedules._batch_p2p, schedules._wait_batch_p2p = start_kept, wait_once
    return finish


def train_and_block(run: Any, rank: int) -> None:
    """Train; in step STOPS_AT, `rank` waits in Python for something that never happens."""
    never = threading.Event()

    def block(engine: Engine, number: int) -> None:
        if number == STOPS_AT and engine.groups.rank == rank:
            never.wait()

    before_each_step(block)
    train_rank(run)


def train_and_starve(run: Any, rank: int, seconds: float) -> None:
    """Train; `rank` gets the batch of step STOPS_AT from storage only after a time. Errors are printed to PRINTED."""
    read, number = Batches.batch, 0

    def read_slowly(batches: Batches, samples_consumed: int) -> Any:
        nonlocal number
        number += 1
        if number == STOPS_AT and int(os.environ["RANK"]) == rank:
            threading.Event().wait(seconds)
        return read(batches, samples_consumed)

    with (run.run_dir / PRINTED).open("a") as file:
        os.dup2(file.fileno(), 2)
    Batches.batch = read_slowly  # type: ignore[method-assign,assignment]
    train_rank(run)


def train_and_stop_in_load(run: Any, rank: int) -> None:
    """Train from a checkpoint; `rank` stops itself before it reads it."""
    _before_reading(rank, lambda: os.kill(os.getpid(), signal.SIGSTOP))
    train_rank(run)


def train_and_load_slowly(run: Any, rank: int, seconds: float) -> None:
    """Train from a checkpoint; `rank` reads it only after a time."""
    _before_reading(rank, lambda: threading.Event().wait(seconds))
    train_rank(run)


def _before_reading(rank: int, work: Callable[[], Any]) -> None:
    read = CheckpointReader.read_metadata

    def work_first(reader: CheckpointReader, *args: Any, **kwargs: Any) -> Any:
        if int(os.environ["RANK"]) == rank:
            work()
        return read(reader, *args, **kwargs)

    CheckpointReader.read_metadata = work_first  # type: ignore[method-assign,assignment]
