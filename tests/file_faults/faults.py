"""Faults of the file system in the processes of a test: rules of preload.c, which this machine compiles."""

import ctypes
import errno
import mmap
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.required import not_here

SOURCE = Path(__file__).with_name("preload.c")
NUM_RULES = 64
STALL = 0
"""Stands for an errno: the call only takes longer."""


@dataclass(frozen=True)
class Fault:
    """A fault of some calls on some files."""

    call: str
    """The kind of calls: open, read, write, fsync, close, lock, stat, list, mkdir, rename, unlink, or "*" for all."""
    pattern: str
    """The files, by their absolute paths; a star also matches slashes."""
    error: int = errno.EIO
    """The errno, or STALL."""
    first: int = 1
    """The first call that fails, from 1, counted over all processes."""
    count: int = 1
    """The number of calls that fail, from that one on."""
    window_s: float = 0.0
    """If it is set: all calls fail for so long, from the first one on."""
    stall_s: float = 0.0
    """Seconds that the call takes longer."""
    is_done: bool = False
    """Whether the call is made, and fails afterwards: the answer of a server is lost."""


class _Rule(ctypes.Structure):
    _fields_ = (
        ("call", ctypes.c_char * 16),
        ("pattern", ctypes.c_char * 256),
        ("error", ctypes.c_int32),
        ("is_done", ctypes.c_int32),
        ("stall_s", ctypes.c_double),
        ("window_s", ctypes.c_double),
        ("first", ctypes.c_int64),
        ("count", ctypes.c_int64),
        ("seen", ctypes.c_int64),
        ("hit", ctypes.c_int64),
        ("at_ns", ctypes.c_int64),
    )


class _Control(ctypes.Structure):
    _fields_ = (("num_rules", ctypes.c_int64), ("rules", _Rule * NUM_RULES))


class FileFaults:
    """The faults of all processes that have `variables` in their environment."""

    def __init__(self, folder: Path) -> None:
        """Compile the library into `folder`."""
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            not_here("faults of the file system need a C compiler: apt-get install gcc libc6-dev")
        library, self._path = folder / "preload.so", folder / "control"
        subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
        self._path.write_bytes(bytes(ctypes.sizeof(_Control)))
        with self._path.open("r+b") as file:
            self._control = _Control.from_buffer(mmap.mmap(file.fileno(), 0))
        self.variables = {"LD_PRELOAD": str(library), "FORETRAIN_TEST_FAULTS": str(self._path)}

    @contextmanager
    def having(self, faults: Sequence[Fault]) -> Iterator[None]:
        """Let calls fail inside of the block. Each of the faults must have happened at its end."""
        for rule, fault in zip(self._control.rules, faults, strict=False):
            rule.call, rule.pattern = fault.call.encode(), fault.pattern.encode()
            rule.error, rule.is_done = fault.error, fault.is_done
            rule.stall_s, rule.window_s = fault.stall_s, fault.window_s
            rule.first, rule.count = fault.first, fault.count
            rule.seen = rule.hit = rule.at_ns = 0
        assert len(faults) <= NUM_RULES
        self._control.num_rules = len(faults)
        try:
            yield
        finally:
            self._control.num_rules = 0
        missed = [fault for rule, fault in zip(self._control.rules, faults, strict=False) if not rule.hit]
        assert not missed, f"no call has met {missed}"
