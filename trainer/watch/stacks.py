"""Where the Python threads of this process are, found without reading their frames from Python.

In CPython 3.11, a walk over the frames of a thread that runs can end the process with a segmentation fault
(https://github.com/python/cpython/issues/99110). faulthandler reads them as they are at one moment.
"""

import faulthandler
import linecache
import os
import re
import tempfile
import threading
from collections.abc import Iterable, Mapping
from io import FileIO
from typing import IO, NamedTuple

_THREAD = re.compile(r"(?:Thread|Current thread) 0x([0-9a-f]+)")
_CALL = re.compile(r'  File "(.*)", line (\d+) in (.*)')


class Call(NamedTuple):
    """A function that a thread is in."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        code = linecache.getline(self.file, self.line).strip()
        return f"{self.file}:{self.line} in {self.function}: {code}"


def stacks() -> dict[str, list[Call]]:
    """The calls of each other thread by its name, innermost call last: of 100 threads at most. The main thread comes
    first. Nothing if the process has no file descriptor left.
    """
    try:
        with _scratch_file() as file:
            faulthandler.dump_traceback(file.fileno(), all_threads=True)
            file.seek(0)
            found = parse(file.read().decode(errors="replace").splitlines())
    except OSError:  # the rest of a report is worth more than its stacks
        return {}
    threads = {thread.ident: thread.name for thread in threading.enumerate()}
    me, main = threading.get_ident(), threading.main_thread().ident
    idents = sorted(found.keys() - {me}, key=lambda ident: ident != main)
    return {threads.get(ident, f"thread {ident}"): found[ident] for ident in idents}


def parse(lines: Iterable[str]) -> Mapping[int, list[Call]]:
    """The calls of each thread by its identifier, innermost call last, from what faulthandler writes."""
    found: dict[int, list[Call]] = {}
    calls: list[Call] = []
    for line in lines:
        if thread := _THREAD.match(line):
            calls = found[int(thread[1], 16)] = []
        elif call := _CALL.fullmatch(line):
            calls.insert(0, Call(call[1], int(call[2]), call[3]))
    return found


def _scratch_file() -> IO[bytes]:
    """A file in memory where there are such; disks may be full, or may not answer."""
    if hasattr(os, "memfd_create"):
        return FileIO(os.memfd_create("stacks"), "w+")
    return tempfile.TemporaryFile()
