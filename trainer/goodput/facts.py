"""The facts from which a run's goodput is computed: lines of `ledger.jsonl` in its folder, in the order of writing.

Launchers write when a run is launched and when its ranks are started, and rank 0 writes what its time was spent on:

    {"kind": "launch", "at_s": 1764406800.1}
    {"kind": "start", "at_s": 1764406860.2, "job": "123", "queued": true}
    {"kind": "process", "at_s": 1764406861.0}
    {"kind": "begin", "at_s": 1764406880.5, "step": 400, "layout": "dp=2 tp=1 pp=1", "spent_s": {"start_up": 9.1}}
    {"kind": "steps", "at_s": 1764406891.7, "step": 410, "steps": 10, "spent_s": {"step": 10.9, "data_wait": 0.3}}
    {"kind": "end", "at_s": 1764406893.1, "step": 411, "steps": 1, "spent_s": {"step": 1.1, "checkpoint": 0.3}}
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from foretrain import records
from foretrain.trainer.goodput.causes import Cause

LEDGER_FILE = "ledger.jsonl"
GOODPUT_FILE = "goodput.json"
"""The account of a run's life, computed from its ledger at the end of its last session."""

Kind = Literal["launch", "start", "process", "begin", "steps", "end"]
"""launch: the run was given to a launcher. start: the launcher starts its ranks. process: the first process of a start.
begin, steps, end: rank 0 is about to train, has done some steps, or has ended."""


@dataclass(frozen=True)
class Fact:
    """A line of LEDGER_FILE."""

    kind: Kind
    at_s: float
    """Unix time."""
    job: str = ""
    """start: the id of the job, the same if its cluster puts it back into the queue."""
    queued: bool = False
    """start: whether a cluster decides when the job starts."""
    step: int | None = None
    """begin, steps, end: the steps that are done; None if rank 0 did not get as far as its first step."""
    layout: str = ""
    """begin: the layout of the start, in words."""
    steps: int = 0
    """steps, end: the steps done since the line before."""
    spent_s: Mapping[Cause, float] = field(default_factory=dict)
    """Seconds up to `at_s` that this process has measured since its line before, by cause."""


_UNSET = {"job": "", "queued": False, "step": None, "layout": "", "steps": 0, "spent_s": {}}
"""Values that a line leaves out."""


def append(run_dir: Path, fact: Fact) -> None:
    """Add a fact to the ledger of a run. Raises OSError if it cannot be written."""
    changed = {name: value for name, value in vars(fact).items() if value != _UNSET.get(name)}
    records.append(run_dir / LEDGER_FILE, {"kind": fact.kind, "at_s": fact.at_s, **changed})


def read(run_dir: Path) -> list[Fact]:
    """The facts of a run, oldest first. A line that was cut short is left out."""
    return [Fact(**entry) for entry in records.entries(run_dir / LEDGER_FILE)]


def process_start_s() -> float:
    """Unix time at which this process was started, to a hundredth of a second."""
    # The name of the program, in brackets, may hold spaces; the start is the 22nd value of all (man 5 proc_pid_stat).
    values = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - int(values[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - age_s
