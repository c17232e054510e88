"""The shards that are open for reading: the most recently used ones, up to a limit."""

import errno
import mmap
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, ClassVar

from foretrain.data_pipeline.corpus.store import Store

MAX_OPEN = 128
"""Each file takes two of the 1,024 descriptors that a process usually may have: its memory map has its own."""


class OpenFile:
    """A file that is read through its descriptor, where all faults are errors, or a memory map, which is faster.

    The file is closed when the last reference to this object is gone, so a reader that still has it can finish.
    """

    def __init__(self, fd: int) -> None:
        """Take ownership of the descriptor."""
        self.fd = fd
        self._map: mmap.mmap | None = None
        self._view = memoryview(b"")

    def mapped(self, size_bytes: int) -> memoryview:
        """Return a view of the first bytes of the file. Raises OSError if the file is now shorter than that.

        Access to bytes that were cut off would end the process with a signal.
        """
        if self._map is None:
            _check_length(os.fstat(self.fd).st_size, size_bytes)
            mapped = mmap.mmap(self.fd, size_bytes, access=mmap.ACCESS_READ)
            self._view = memoryview(mapped)
            self._map = mapped
        _check_length(self._map.size(), size_bytes)
        return self._view

    def __del__(self, close: Any = os.close) -> None:
        close(self.fd)


def _check_length(found_bytes: int, size_bytes: int) -> None:
    if found_bytes < size_bytes or size_bytes == 0:
        raise OSError(errno.EIO, "the file was shortened")


class OpenFiles:
    """The files of a store, by number. It may be used from several threads; a pickled copy starts with no open file."""

    _all: ClassVar["weakref.WeakSet[OpenFiles]"] = weakref.WeakSet()
    """All instances in this process, which share its limit on open files."""

    def __init__(self, store: Store, names: Sequence[str], max_open: int = MAX_OPEN) -> None:
        self._store, self._names, self._max_open = store, names, max_open
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[int, OpenFile] = OrderedDict()
        self._all.add(self)

    def __len__(self) -> int:
        return len(self._open)

    def get(self, number: int) -> OpenFile:
        """Return a file; keep a reference while you use its descriptor. Raises CorpusError, OSError."""
        with self._lock:
            file = self._open.get(number)
            if file is not None:
                self._open.move_to_end(number)
                return file
        file = self._open_file(self._names[number])  # without the lock, because it may be a long download
        with self._lock:
            self._open[number] = file
            while len(self._open) > self._max_open:
                self._open.popitem(last=False)
        return file

    def close(self) -> None:
        """Close all files that nobody reads from."""
        with self._lock:
            self._open.clear()

    def _open_file(self, name: str) -> OpenFile:
        try:
            return OpenFile(self._store.open(name))
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        for files in list(self._all):
            files.close()
        return OpenFile(self._store.open(name))

    def __getstate__(self) -> dict[str, Any]:
        return {"_store": self._store, "_names": self._names, "_max_open": self._max_open}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()
