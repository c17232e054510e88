"""What asks a run to stop, and the exit status that asks the launcher to start it again."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from foretrain.data_pipeline.stream.batches import StopAskedError
from foretrain.faults import is_full, is_passing
from foretrain.printable import printable
from foretrain.streams import outlive_readers
from foretrain.trainer.run.exit_status import EXIT_DONE, EXIT_FAILED, EXIT_HANG, EXIT_RESUME

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)
"""SIGHUP: the terminal was closed; where it is ignored, as after nohup, it stays so. SIGUSR1 is not among them because
NCCL uses it."""

REPEAT_S = 0.2
"""Seconds after which a signal that should have ended a complete run is repeated."""


class StopRequest:
    """Whether this process was asked to stop. The telemetry callback makes all ranks agree on it at each step."""

    def __init__(self) -> None:
        self.asked = False

    def note(self, signum: int, frame: FrameType | None) -> None:
        """The signal handler."""
        self.asked = True


_process_request: StopRequest | None = None


def catch_signals() -> StopRequest:
    """Make SIGNALS request a stop from now until the process ends. Before the first call they kill the process.

    The main program of a rank calls this first, since the imports that follow take seconds.
    """
    global _process_request
    if _process_request is None:
        _process_request = StopRequest()
        _set_handlers(_process_request.note)
    return _process_request


def catch_lost_output() -> None:
    """Make a closed terminal, or a pipe whose reader has ended, request a stop, as signals do; no print fails."""
    request = catch_signals()

    def on_gone(reason: str) -> None:
        request.asked = True
        print(f"output can no longer be written ({reason}): the run writes a checkpoint and stops", file=sys.stderr)

    outlive_readers(on_gone)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Make SIGNALS end this process with EXIT_DONE inside the block: its run is complete, and nothing is left to save.

    After the block they are ignored, since the process ends anyway.
    """

    is_asked = False

    def end(signum: int, frame: FrameType | None) -> NoReturn:
        nonlocal is_asked
        is_asked = True
        # Python ignores what is raised inside __del__ and the callback of a weak reference: then a timer repeats it.
        signal.setitimer(signal.ITIMER_REAL, REPEAT_S)
        raise SystemExit(EXIT_DONE)

    def report(ignored: "sys.UnraisableHookArgs") -> None:
        # An ignored end is no failure: its traceback would look like one.
        if not isinstance(ignored.exc_value, SystemExit):
            report_before(ignored)

    report_before, sys.unraisablehook = sys.unraisablehook, report
    signal.signal(signal.SIGALRM, end)
    _set_handlers(end)
    if _process_request is not None and _process_request.asked:
        raise SystemExit(EXIT_DONE)
    try:
        yield
    except Exception:
        if not is_asked:
            raise
        # The end was raised where a library takes every exception for one of its own.
        raise SystemExit(EXIT_DONE) from None
    finally:
        for signum in (signal.SIGALRM, *SIGNALS):
            signal.signal(signum, signal.SIG_IGN)
        sys.unraisablehook = report_before


@contextmanager
def restarted_after_faults() -> Iterator[None]:
    """End this process, to be started again, if the block meets a fault that passes: of a server or a file system.

    The other ranks are in the middle of a step, and cannot write a checkpoint with this one. A full disk ends it with
    EXIT_FAILED, since someone must free some space, and with one line.
    """
    try:
        yield
    except StopAskedError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(EXIT_RESUME) from error
    except Exception as error:
        if is_passing(error):
            status, what = EXIT_HANG, "the run ends, to be started again from its last checkpoint"
        elif is_full(error):
            status, what = EXIT_FAILED, "free some space, and run the same command again"
        else:
            raise
        print(printable(f"error: {error}: {what}"), file=sys.stderr, flush=True)
        raise SystemExit(status) from error


def _set_handlers(handler: Callable[[int, FrameType | None], object]) -> dict[int, Any]:
    """Handle SIGNALS, except a SIGHUP that is ignored. Returns the previous handlers."""
    previous: dict[int, Any] = {signum: signal.getsignal(signum) for signum in SIGNALS}
    if previous[signal.SIGHUP] is signal.SIG_IGN:
        del previous[signal.SIGHUP]
    for signum in previous:
        signal.signal(signum, handler)
    return previous


@contextmanager
def watch_signals() -> Iterator[StopRequest]:
    """Make SIGNALS request a stop inside the block, and restore the previous handlers after it.

    After `catch_signals`, its request is used, and nothing is restored. Outside the main thread, where Python allows no
    handlers, none is set.
    """
    if _process_request is not None:
        yield _process_request
        return
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = _set_handlers(request.note)
    try:
        yield request
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def exit_for_resume() -> NoReturn:
    """Exit with EXIT_RESUME, once every rank is here: a launcher stops all ranks as soon as the first one exits."""
    # Imported here because torch takes seconds to import, and signals must be caught before that.
    import torch.distributed as dist

    for signum in SIGNALS:
        # The launcher may stop this rank before it has closed its files. Python drops its handlers before it ends.
        signal.signal(signum, signal.SIG_IGN)
    dist.barrier()
    raise SystemExit(EXIT_RESUME)
