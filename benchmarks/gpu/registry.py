"""The checks in the order in which they run, what each needs, and how one is run."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.budget import OutOfTimeError, TooSlowError
from benchmarks.gpu.checks.checkpoint import checkpoint
from benchmarks.gpu.checks.elastic import elastic
from benchmarks.gpu.checks.memory import memory
from benchmarks.gpu.checks.nccl import nccl
from benchmarks.gpu.checks.resume import resume
from benchmarks.gpu.checks.throughput import throughput
from benchmarks.gpu.checks.verify import verify
from benchmarks.gpu.context import CheckFailedError, Context
from benchmarks.gpu.outcome import Outcome, Status, last_lines


@dataclass(frozen=True)
class Check:
    """One check, and what it needs."""

    name: str
    run: Callable[[Context], dict[str, Any]]
    """Returns what it measured. Raises CheckFailedError if something is wrong, and any other error too fails it."""
    needs_s: float
    """Seconds without which it does not start: about what it takes on a fast machine."""
    share: float
    """The part of the program's time after which it is stopped: several times what it takes."""
    needs_gpu: bool = False
    min_ranks: int = 1
    needs_data: bool = True

    def obstacle(self, context: Context) -> str:
        """Why this machine cannot run it; "" if it can."""
        if self.needs_gpu and not context.on_gpus:
            return "it needs a GPU"
        return f"it needs {self.min_ranks} GPUs" if context.num_ranks < self.min_ranks else ""


CHECKS = (
    Check("verify", verify, needs_s=60, share=0.4, needs_data=False),
    Check("resume", resume, needs_s=60, share=0.4),
    Check("elastic", elastic, needs_s=45, share=0.3, min_ranks=2),
    Check("throughput", throughput, needs_s=30, share=0.25),
    Check("memory", memory, needs_s=45, share=0.3, needs_gpu=True),
    Check("checkpoint", checkpoint, needs_s=25, share=0.25),
    Check("nccl", nccl, needs_s=15, share=0.15, needs_gpu=True, min_ranks=2, needs_data=False),
)


def run_check(check: Check, context: Context) -> Outcome:
    """Run a check in its folder, and return what became of it. The folder stays if it did not pass."""
    if obstacle := check.obstacle(context):
        return Outcome(check.name, "not applicable", reason=obstacle)
    started_s = time.monotonic()
    if not context.budget.fits(check.needs_s, started_s):
        left_s = context.budget.left_s(started_s)
        return not_run(check, f"it needs about {check.needs_s:g} s, and {left_s:.0f} s are left: raise --minutes")
    shutil.rmtree(context.folder, ignore_errors=True)
    context.folder.mkdir(parents=True)
    measured: dict[str, Any] = {}
    status: Status
    try:
        measured = check.run(context)
    except CheckFailedError as error:
        measured, status, reason = error.measured, "failed", str(error)
    except OutOfTimeError as error:
        status, reason = "not run", str(error)
    except TooSlowError as error:
        status, reason = "failed", str(error)
    except Exception as error:  # noqa: BLE001 - a fault of one check must not hide what the others find
        status, reason = "failed", f"{type(error).__name__}: {error}"
    else:
        shutil.rmtree(context.folder)
        return Outcome(check.name, "passed", time.monotonic() - started_s, measured)
    text = context.log.read_text(encoding="utf-8", errors="replace") if context.log.exists() else ""
    (reason,) = last_lines(reason.replace("\n", " ")) or ("",)
    return Outcome(check.name, status, time.monotonic() - started_s, measured, reason, last_lines(text))


def not_run(check: Check, reason: str) -> Outcome:
    """The outcome of a check that did not start or did not end."""
    return Outcome(check.name, "not run", reason=reason)
