"""The side of the child process: becomes a rank, runs the target, and reports to the launcher how it ended."""

import faulthandler
import importlib
import multiprocessing
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from foretrain.launcher.local.forkserver import InheritedFd
from foretrain.launcher.local.outcome import Exited, Raised, Report, Returned
from foretrain.launcher.parent_death import die_with_parent

_COMMUNICATION_WORDS = (
    "closed by peer",
    "reset by peer",
    "broken pipe",
    "connection refused",
    "gloo/transport",
    "nccl",
    "timed out waiting",
)


@dataclass(frozen=True)
class Setup:
    """Everything that a rank needs to start."""

    target: str
    """The function to run: "package.module:function"."""
    args: bytes
    """The pickled tuple of its arguments."""
    keep_result: bool
    """Whether to send back what the target returns."""
    env: dict[str, str]
    """The complete environment."""
    stdout: InheritedFd
    """The file for what the rank prints."""
    stderr: InheritedFd
    """The file for its errors."""


def main(setup: Setup, reports: Connection) -> None:
    """Run the target and send a Report; the process then ends with 0, with 1 for an exception, or as sys.exit said.

    As in any multiprocessing child, atexit handlers do not run.
    """
    try:
        _become_rank(setup)
        report: Report = Returned(_run(setup))
    except SystemExit as error:
        report = _exited(error)
    except BaseException as error:  # noqa: BLE001
        # The launcher prints it, whatever it is.
        report = _raised(error)
    sys.stdout.flush()
    sys.stderr.flush()
    reports.send_bytes(pickle.dumps(report))
    if not isinstance(report, Returned):
        sys.exit(report.code if isinstance(report, Exited) else 1)


def _become_rank(setup: Setup) -> None:
    for source, fd in ((setup.stdout.fd, 1), (setup.stderr.fd, 2)):
        # On the descriptors, so that the output of C++ goes there too.
        os.dup2(source, fd)
        os.close(source)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable()
    # A child of a fork server would also start its own children from one; a rank shall be like any program.
    multiprocessing.set_start_method(None, force=True)
    os.environ.clear()
    os.environ.update(setup.env)
    preload = sys.modules.get("foretrain.launcher.local.preload")
    if preload is None:
        raise RuntimeError(
            "the fork server could not import foretrain.launcher.local.preload: is foretrain installed completely?"
        )
    die_with_parent(preload.SERVER_PID)
    # Ctrl-C, and the end of the terminal, reach all its processes; the launcher alone decides what they mean.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for name in preload.FAILED:
        importlib.import_module(name)
    if "torch" in sys.modules:
        # OpenMP has read its environment in the fork server already.
        sys.modules["torch"].set_num_threads(int(setup.env["OMP_NUM_THREADS"].split(",")[0]))


def _run(setup: Setup) -> bytes | None:
    args = pickle.loads(setup.args)
    target = resolve(setup.target)
    # Signals that arrived while this rank started are delivered now, to its own handlers if it has any.
    getattr(target, "on_start", lambda: None)()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, sys.modules["foretrain.launcher.local.preload"].HELD_SIGNALS)
    value = target(*args)
    # Plain pickle: multiprocessing's would pass tensors as shared memory, which ends with this process.
    return pickle.dumps(value) if setup.keep_result else None


def resolve(target: str) -> Callable[..., Any]:
    """Import "package.module:function" and return the function.

    Raises ValueError if there is no such function, and whatever importing the module raises.
    """
    module_name, separator, path = target.partition(":")
    if not separator:
        raise ValueError(f"target {target!r} must read package.module:function")
    found: Any = importlib.import_module(module_name)
    for name in path.split("."):
        if not hasattr(found, name):
            raise ValueError(f"target {target!r}: {module_name} has no {path}")
        found = getattr(found, name)
    return found


def _exited(error: SystemExit) -> Exited:
    if error.code is None or isinstance(error.code, int):
        return Exited(code=int(error.code or 0) & 0xFF, message="", at_s=time.monotonic())
    return Exited(code=1, message=str(error.code), at_s=time.monotonic())


def _raised(error: BaseException) -> Raised:
    at_s = time.monotonic()
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    return Raised(
        name=type(error).__name__,
        message=str(error),
        traceback="".join(traceback.format_exception(type(error), error, frames)),
        at_s=at_s,
        is_user_error=isinstance(error, ValueError),
        is_communication=_is_communication(error),
    )


def _is_communication(error: BaseException | None) -> bool:
    """Whether the error, or its cause, is about a lost connection."""
    if error is None:
        return False
    torch_distributed = sys.modules.get("torch.distributed")
    kinds = (ConnectionError, *([torch_distributed.DistError] if torch_distributed is not None else []))
    said = isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _COMMUNICATION_WORDS)
    return isinstance(error, kinds) or said or _is_communication(error.__cause__ or error.__context__)
