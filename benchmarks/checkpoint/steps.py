"""What one rank measures of steps: pairs of a step while foretrain writes a save, and of one in which it does not.

Machines are faster in one second than in the next, by more than what is to be measured. So the two steps of a pair
follow each other, in random order: between them, a gate in the way of the writer (`gate.py`) is opened or closed. Of a
save, the first step after the copy of the state counts too, and so do the last ones, in which the disk gets what is
still in memory and the checkpoint becomes complete. No gate can stop these, so they are followed by their pairs.
"""

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.checkpoint.contestants import Ours
from benchmarks.checkpoint.gate import Gate, GatedPace
from benchmarks.checkpoint.rank import contestant_class, groups_of, seconds
from foretrain.configs.schema import Config
from foretrain.parallel.groups import destroy_groups
from foretrain.trainer.checkpoint.folders import folder_of
from foretrain.trainer.checkpoint.space import checkpoint_bytes

UNGATED_EVERY = 4
"""One of this number of saves is written without the gate, to see that the writer does as much work with it."""
BARE_WRITES = 5
"""Writes by another process, beside which steps are measured too."""
DIGITS = 5
"""Decimal places of seconds in the results."""
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Step:
    """One step of this rank."""

    s: float
    cpu_s: float
    """Seconds of CPU of the thread that trains."""
    other_cpu_s: float
    """Seconds of CPU of the other threads of the process, such as the writer."""
    written_bytes: int
    """What all ranks wrote into the files of the save during it."""
    disk_bytes: int
    """What the machine sent to its disks during it."""


@dataclass(frozen=True)
class Pair:
    """A step beside the writing of a save, and one like it."""

    kind: str
    """ "begin": the first step of a save. "writing": the writer is busy with the files during all of it. "end": the
    writer is done with the files, or has to wait for the disk only. "ungated", "ungated begin" and "ungated end": of a
    save without the gate. "bare": another process writes."""
    beside: Step
    without: Step


def measure_steps(contestant: str, config: Config, folder: Path, num_pairs: int, seed: int) -> dict[str, Any]:
    """At least `num_pairs` pairs with the gate, and others without, in the order in time.

    A list of each number of the pairs, such as `beside_s`.
    """
    groups = groups_of(config, None)
    gate = Gate()
    ours: Ours = contestant_class(contestant)(config, groups, folder, partial(GatedPace, gate))
    saves = _Saves(ours, gate, config, random.Random(seed))
    saves.first()
    pairs: list[Pair] = []
    number = 0
    while sum(not pair.kind.startswith("ungated") for pair in pairs) < num_pairs:
        number += 1
        pairs += saves.ungated(number) if number % UNGATED_EVERY == 0 else saves.gated(number)
    share = checkpoint_bytes(config) // groups.layout.world_size
    for _ in range(BARE_WRITES if groups.layout.world_size == 1 else 0):
        pairs += saves.beside_bare_write(share)
    destroy_groups()
    return {"num_saves": number, "kind": [pair.kind for pair in pairs]} | {
        f"{side}_{field.name}": [round(getattr(getattr(pair, side), field.name), DIGITS) for pair in pairs]
        for side in ("beside", "without")
        for field in fields(Step)
    }


class _Saves:
    """Saves, and the steps that are taken meanwhile. All ranks take the same decisions."""

    def __init__(self, ours: Ours, gate: Gate, config: Config, order: random.Random) -> None:
        self._ours, self._gate, self._order = ours, gate, order
        self._group = ours.engine.groups
        samples = config.train.global_batch_size // self._group.layout.dp
        self._tokens = torch.randint(config.model.vocab_size or 0, (samples, config.model.seq_len))
        ours.engine.set_lr(0.0)  # the numbers of the state stay as they are

    def first(self) -> None:
        """A save that makes the buffers, and shows how many pieces one has."""
        self._step(0)
        self._start(0)
        self._ours.finish()
        self._gate.end_first()

    def gated(self, number: int) -> list[Pair]:
        """The pairs of a save with the gate."""
        pairs: list[Pair] = []
        left: list[tuple[str, Step]] = []
        kind = "begin"
        without = self._step(number) if self._coin() else None
        self._start(number)
        while self._ours.checkpoints.is_saving:
            self._gate.open()
            beside = self._step(number)
            is_at_gate = self._close()
            kind = "end" if kind == "writing" and not is_at_gate else kind
            if without is None and is_at_gate:
                without = self._step(number)
            if without is None:
                left.append((kind, beside))
            else:
                pairs.append(Pair(kind, beside, without))
            self._advance()
            kind = "writing" if is_at_gate else "end"
            without = self._step(number) if is_at_gate and self._coin() else None
        return pairs + [Pair(kind, beside, self._step(number)) for kind, beside in left]

    def ungated(self, number: int) -> list[Pair]:
        """The steps beside a save without the gate, as pairs with as many steps after it."""
        self._start(number)
        beside: list[tuple[str, Step]] = []
        while self._ours.checkpoints.is_saving:
            step = self._step(number)
            is_writing = not self._any(self._gate.is_passed_for_good)
            kind = ("ungated" if is_writing else "ungated end") if beside else "ungated begin"
            beside.append((kind, step))
            self._advance()
        return [Pair(kind, step, self._step(number)) for kind, step in beside]

    def beside_bare_write(self, num_bytes: int) -> list[Pair]:
        """The steps beside a write by another process, as pairs with as many steps after it. For one rank."""
        beside = []
        with _another_process_writes(self._ours.folder / "bare", num_bytes) as writes:
            while writes():
                beside.append(self._step(0))
        return [Pair("bare", step, self._step(0)) for step in beside]

    def _coin(self) -> bool:
        return self._order.random() < 0.5

    def _start(self, number: int) -> None:
        dist.barrier(group=self._group.cpu)
        self._gate.open_for_a_save()
        self._ours.start(number)

    def _close(self) -> bool:
        """Close the gate. Whether the writers of all ranks wait at it; if not, it is open again."""
        is_closed = not self._any(not self._gate.close())
        if not is_closed:
            self._gate.open()
        return is_closed

    def _advance(self) -> None:
        """What a run does between two steps."""
        if not self._any(self._ours.checkpoints.is_busy):
            self._ours.checkpoints.advance()

    def _any(self, mine: bool) -> bool:
        """Whether it is so on any rank."""
        found = torch.tensor(float(mine))
        dist.all_reduce(found, dist.ReduceOp.MAX, group=self._group.cpu)
        return bool(found)

    def _step(self, number: int) -> Step:
        """One step, during which the save `number` may be written."""
        written, disk, cpu_s = self._written_bytes(number), _disk_bytes(), process_time()
        wall_s, own_cpu_s = seconds(self._group, lambda: self._ours.engine.train_step(self._tokens, self._tokens))
        cpu_s = process_time() - cpu_s
        written = max(0, self._written_bytes(number) - written)  # 0 once the folder has its name
        return Step(wall_s, own_cpu_s, max(0.0, cpu_s - own_cpu_s), written, _disk_bytes() - disk)

    def _written_bytes(self, number: int) -> int:
        folder = folder_of(self._ours.folder)
        files = folder.unfinished(folder.path(number)).glob("*.distcp")
        try:
            return sum(path.stat().st_size for path in files)
        except FileNotFoundError:  # the folder has got its name meanwhile
            return 0


def _disk_bytes() -> int:
    """What the machine has sent to its disks since it was started."""
    lines = Path("/proc/vmstat").read_text().splitlines()
    return PAGE_BYTES * next(int(line.split()[1]) for line in lines if line.startswith("nr_written "))


_BARE_WRITE = """
import os, sys
path, num_bytes = sys.argv[1], int(sys.argv[2])
block = memoryview(os.urandom(1 << 24))
with open(path, "wb", buffering=0) as file:
    print("begins", flush=True)
    while num_bytes > 0:
        num_bytes -= file.write(block[:num_bytes])
    os.fsync(file.fileno())
os.unlink(path)
"""


@contextmanager
def _another_process_writes(path: Path, num_bytes: int) -> Iterator[Callable[[], bool]]:
    """A block beside which another process writes that many bytes, and no more: what any save costs at least.

    Yields a function that says whether it still writes.
    """
    command = [sys.executable, "-S", "-c", _BARE_WRITE, str(path), str(num_bytes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield lambda: process.poll() is None
