"""Starts processes from a fork server that has imported the heavy modules once for all ranks."""

import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver, reduction
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

from foretrain.launcher.environment import changed_environment
from foretrain.launcher.local.sockets import own_socket_folder

# A name, not an import: foretrain.launcher.local.preload changes the process that imports it.
_PRELOAD_MODULE = "foretrain.launcher.local.preload"
PRELOAD_VARIABLE = "FORETRAIN_PRELOAD"
"""The variable that names the modules to import in the server, joined by commas. It is set for the server alone."""

PRELOAD = (
    "torch",
    "torch.distributed",
    "foretrain.parallel.libraries",
    "foretrain.trainer.run.rank",
)
"""The modules that take a rank longest to import: about eight CPU seconds together."""


class ServerEndedError(RuntimeError):
    """The fork server has ended before it started a rank: it was killed, or a module that it imports ended it."""


class InheritedFd:
    """A file descriptor that is duplicated into a child when pickled for it; there, `fd` is the duplicate."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (reduction.DupFd(self.fd),)


def _received(copy: Any) -> InheritedFd:
    return InheritedFd(copy.detach())


@contextmanager
def _hidden_main() -> Iterator[None]:
    """Keep children from importing this program's main module again: they import what they need by name."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def server_env(env: Mapping[str, str], preload: Sequence[str]) -> dict[str, str]:
    """What the fork server's environment has in addition to the launcher's: `env`, and the modules to import."""
    # Without it, the server would look for modules only where a bare interpreter does.
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    return {**env, "PYTHONPATH": path, PRELOAD_VARIABLE: ",".join(preload)}


def ensure_running(server_env: Mapping[str, str]) -> None:
    """Start the fork server unless it runs, and return while it still imports. A running one keeps its environment."""
    forkserver.set_forkserver_preload([_PRELOAD_MODULE])
    own_socket_folder()
    with changed_environment(server_env):
        forkserver.ensure_running()


def start(function: Any, *args: Any, name: str, server_env: Mapping[str, str]) -> BaseProcess:
    """Start function(*args), importable by name, in a process forked from the server.

    Raises ServerEndedError if the server has ended.
    """
    process = multiprocessing.get_context("forkserver").Process(target=function, args=args, name=name)
    try:
        # multiprocessing restarts a server that has ended, so the environment must be right here too.
        with changed_environment(server_env), _hidden_main():
            process.start()
    except (EOFError, ConnectionError) as error:
        raise ServerEndedError("the fork server ended before it started a rank: its error is on stderr") from error
    return process
