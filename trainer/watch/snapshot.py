"""The report of this process about itself: torch's flight recorder, and the stacks of its threads."""

import json
import os
import socket
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch._C import _distributed_c10d as c10d

from foretrain.parallel.engine import Engine
from foretrain.parallel.groups import Groups
from foretrain.trainer.watch.reports import Collective, Group, RankReport
from foretrain.trainer.watch.stacks import Call, stacks

_READS_DATA = (("data_pipeline/stream/batches.py", "__next__"), ("trainer/checkpoint/loading.py", "read_from"))
"""The files and functions in which a rank waits for its batch, and for what it reads of a checkpoint."""


def known_groups(groups: Groups) -> dict[str, Group]:
    """The groups of the layout by their names in torch."""
    labelled = (
        ("group of all ranks", dist.group.WORLD),
        ("group of all ranks in host memory", groups.cpu),
        ("tensor-parallel group", groups.tp),
        ("context-parallel group", groups.cp),
        ("pipeline group", groups.pp),
        ("data-parallel group", groups.replicas),
        ("group of tied embeddings", groups.embedding),
        ("group that shares batches", groups.same_samples),
    )
    found: dict[str, Group] = {}
    for label, group in labelled:
        if group is not None:
            found.setdefault(group.group_name, Group(label, dist.get_process_group_ranks(group)))
    return found


def snapshot(groups: Groups, engine: Engine, step: int, phase: str, elapsed_s: float, *, is_late: bool) -> RankReport:
    """The report of this rank. It may be called from any thread, and waits for no other rank or device."""
    calls = stacks()
    known = known_groups(groups)
    entries = flight_record(groups.device)
    for entry in entries:
        name, description = entry["process_group"]
        known.setdefault(name, Group(f"group {description or name}", []))
    return RankReport(
        rank=groups.rank,
        host=socket.gethostname(),
        pid=os.getpid(),
        step=step,
        phase=phase,
        elapsed_s=round(elapsed_s, 1),
        is_late=is_late,
        waits_for_data=_waits_for_data(calls.get(threading.main_thread().name, [])),
        groups=known,
        collectives=newest(entries),
        channels=engine.exchanges.channels,
        stacks={name: [*map(str, each)] for name, each in calls.items()},
    )


def flight_record(device: torch.device) -> list[Mapping[str, Any]]:
    """The entries of torch's flight recorder, the oldest first: those of gloo and, on a GPU, those of NCCL.

    https://docs.pytorch.org/tutorials/unstable/flight_recorder_tutorial.html describes their fields.
    """
    dumps = [c10d._dump_fr_trace_json(True, False)]  # type: ignore[attr-defined]
    if device.type == "cuda":
        dumps.append(c10d._dump_nccl_trace_json(True, False))  # type: ignore[attr-defined]
    entries = [entry for dump in dumps for entry in json.loads(dump).get("entries", [])]
    return sorted(entries, key=lambda entry: entry["time_created_ns"])


def newest(entries: Iterable[Mapping[str, Any]]) -> list[Collective]:
    """The last collective of each group, and all that are not complete, in the order in which they were entered."""
    last: dict[str, Collective] = {}
    found: dict[tuple[str, int], Collective] = {}
    for order, entry in enumerate(entries):
        if entry["is_p2p"]:
            continue  # `Exchanges` knows more about them
        group, number = entry["process_group"][0], entry["collective_seq_id"]
        is_complete = entry["retired"] or entry["state"] == "completed"  # gloo never says "completed"
        name = entry["profiling_name"].partition(":")[2] or entry["profiling_name"]
        last[group] = collective = Collective(group, number, name, order, is_complete)
        if not is_complete:
            found[group, number] = collective
    found |= {(each.group, each.number): each for each in last.values()}
    return sorted(found.values(), key=lambda each: each.order)


def _waits_for_data(calls: Iterable[Call]) -> bool:
    return any(
        call.function == function and call.file.endswith(file) for call in calls for file, function in _READS_DATA
    )
