"""The callback `memory` of the soak: how much memory each rank has while it trains. A config lists it in `plugins`."""

import json
from pathlib import Path
from typing import TextIO

from foretrain.trainer.callbacks.base import CALLBACKS, Callback, Step
from foretrain.trainer.trainer import Trainer

EVERY = 100
"""Steps between two lines of a rank."""


def file_of(run_dir: Path, rank: int) -> Path:
    """The file of a rank: a line of JSON for each measurement, of all starts of the run."""
    return run_dir / f"memory-{rank}.jsonl"


def memory_kib() -> dict[str, int]:
    """Memory of this process now, and at most so far, as Linux counts it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[field].split()[0]) for name, field in (("now", "VmRSS"), ("most", "VmHWM"))}


class MemoryLog(Callback):
    """Writes the memory of its rank every EVERY steps."""

    _file: TextIO | None = None

    def on_step(self, trainer: Trainer, step: Step) -> None:
        if self._file is None:
            path = file_of(Path(trainer.run.config.run_dir), trainer.groups.rank)
            self._file = path.open("a", encoding="utf-8", buffering=1)
        if step.number % EVERY == 0:
            self._file.write(json.dumps({"step": step.number, **memory_kib()}) + "\n")


CALLBACKS.register("memory", MemoryLog)
