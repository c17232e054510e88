"""A corpus elsewhere: its files are fetched into the cache, checked, when they are needed or some way ahead."""

import hashlib
import io
import random
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from os import close as close_file
from os import environ, fdopen
from pathlib import Path
from typing import Any, BinaryIO

from foretrain.configs.data import CacheConfig
from foretrain.data_pipeline.corpus.cache import Cache, Wanted
from foretrain.data_pipeline.corpus.manifest import MANIFEST
from foretrain.data_pipeline.corpus.store import Store, StoreCounts
from foretrain.data_pipeline.corpus.transports import Body, FetchError, Transport, transport_of
from foretrain.data_pipeline.errors import CorpusError, UnreadableError

FIRST_WAIT = 1 / 30
"""Before the second attempt, as a part of the timeout; each wait is twice the one before."""
LONGEST_WAIT = 2.0
"""As a part of the timeout."""
LONGEST_ASKED_WAIT_S = 600.0
"""A server may ask for waits up to this."""


class RemoteStore(Store):
    """Files of one URL, through the cache of this machine."""

    is_local = False

    def __init__(self, url: str, config: CacheConfig) -> None:
        self.url = url
        self._config = config
        self._expected: dict[str, Wanted] = {}
        self._start()
        manifest = io.BytesIO()
        self._download(MANIFEST, None, manifest)
        self._manifest = manifest.getvalue()
        self.expect(MANIFEST, len(self._manifest), hashlib.sha256(self._manifest).hexdigest())
        self._open_cache()

    def _start(self) -> None:
        """Set up what a copy in another process does not share."""
        self._transport: Transport = transport_of(self.url, self._config.timeout_s)
        self._counts = dict.fromkeys(asdict(StoreCounts()), 0)
        self._kept: dict[str, BinaryIO] = {}
        """Small files, which the cache keeps while they are open."""
        self._changed = threading.Condition()
        """Guards the counts and what is to be fetched ahead."""
        self._closed = threading.Event()
        self._ahead: list[str] = []
        self._queue: deque[str] = deque()
        self._thread: threading.Thread | None = None

    def _open_cache(self) -> None:
        default = Path(environ.get("XDG_CACHE_HOME") or "~/.cache") / "foretrain"
        root = Path(self._config.dir or default).expanduser()
        manifest_sha256 = self._expected[MANIFEST].sha256
        self._cache = Cache(root, self.url, manifest_sha256, int(self._config.max_gb * 1e9))

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("url", "_config", "_expected", "_manifest")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start()
        self._open_cache()

    def expect(self, name: str, size_bytes: int | None, sha256: str) -> None:
        """Tell what the manifest says of a file. Nothing but the manifest can be had without."""
        if Path(name).name != name:
            raise CorpusError(f"{self.url}/{MANIFEST} names a file {name!r} outside of its folder: it is damaged")
        self._expected[name] = Wanted(name, size_bytes, sha256)

    def path(self, name: str) -> Path:
        """Return where a small file lies in the cache; it stays there until this store is closed."""
        wanted = Wanted(**{**asdict(self._expected[name]), "is_kept": True})
        with self._changed:
            is_there = name in self._kept and self._cache.path(wanted).exists()
        if not is_there:
            file, _ = self._get(wanted)
            with self._changed:
                self._kept[name] = fdopen(file, "rb")
        return self._cache.path(wanted)

    def open(self, name: str) -> int:
        """Return a file descriptor of a shard, which is fetched first where it is not in the cache."""
        file, is_fetched = self._get(self._expected[name])
        self._count(misses=int(is_fetched), hits=int(not is_fetched))
        return file

    def size(self, name: str) -> int:
        """Return the size that the manifest says, bytes."""
        size_bytes = self._expected[name].size_bytes
        return self.path(name).stat().st_size if size_bytes is None else size_bytes

    @property
    def counts(self) -> StoreCounts:
        """What this store has done in this process so far."""
        with self._changed:
            return StoreCounts(**self._counts)

    def prefetch(self, names: Iterable[str]) -> None:
        """Fetch ahead in this order, as many shards as have prefetch_gb together, and half of the cache at most."""
        room_bytes = min(self._config.prefetch_gb * 1e9, self._cache.max_bytes / 2)
        ahead: list[str] = []
        for name in dict.fromkeys(names):
            room_bytes -= self.size(name)
            if room_bytes < 0:
                break
            ahead.append(name)
        with self._changed:
            if ahead == self._ahead or self._closed.is_set():
                return
            for name in reversed(ahead):  # what is needed first gives way last
                self._cache.touch(self._expected[name])
            self._ahead, self._queue = ahead, deque(ahead)
            if self._thread is None and ahead:
                self._thread = threading.Thread(target=self._fetch_ahead, name="fetch-ahead", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self) -> None:
        """End what goes on in the background; nothing can be fetched any more."""
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
            kept, self._kept = list(self._kept.values()), {}
        for file in kept:
            file.close()
        if self._thread is not None:
            self._thread.join(timeout=1.0)  # it may wait for a server

    def _fetch_ahead(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed.is_set())
                if self._closed.is_set():
                    return
                wanted = self._expected[self._queue.popleft()]
            with suppress(CorpusError, OSError):  # it comes again when the shard is needed, if it still is one then
                opened = self._cache.open_or_fetch(wanted, self._fetcher(wanted), is_ahead=True)
                if opened is not None:
                    close_file(opened[0])

    def _get(self, wanted: Wanted) -> tuple[int, bool]:
        opened = self._cache.open_or_fetch(wanted, self._fetcher(wanted))
        assert opened is not None
        return opened

    def _fetcher(self, wanted: Wanted) -> Callable[[BinaryIO], None]:
        if wanted.name == MANIFEST:
            return self._write_manifest
        return lambda file: self._download(wanted.name, wanted, file)

    def _write_manifest(self, file: BinaryIO) -> None:
        file.truncate(0)
        file.write(self._manifest)

    def _count(self, **more: int) -> None:
        with self._changed:
            for name, number in more.items():
                self._counts[name] += number

    def _download(self, name: str, wanted: Wanted | None, file: BinaryIO) -> None:
        """Complete a file that may hold its first bytes, and check it; wanted is None where nothing is known of it.

        Raises UnreadableError after the last attempt. Attempts that bring the file further are not counted: a line that
        breaks often still gets a large shard through.
        """
        part = _Part(file)
        failures, furthest_bytes = 0, part.num_bytes
        while True:
            try:
                return self._attempt(name, wanted, part)
            except FetchError as error:
                if error.restart:
                    part.restart()
                failures = 1 if part.num_bytes > furthest_bytes else failures + 1
                furthest_bytes = max(furthest_bytes, part.num_bytes)
                if error.is_permanent or failures > self._config.retries:
                    raise self._unreadable(name, error, failures) from error
                wait_s = max(backoff_s(failures, self._config.timeout_s), min(error.wait_s, LONGEST_ASKED_WAIT_S))
            self._count(retries=1)
            self._closed.wait(wait_s)
            self._check_open()

    def _attempt(self, name: str, wanted: Wanted | None, part: "_Part") -> None:
        url = self._transport.url_of(name)
        size_bytes = wanted.size_bytes if wanted else None
        if size_bytes is None or part.num_bytes != size_bytes:  # else a process ended just before the check
            with self._transport.open(name, part.num_bytes) as body:
                if body.offset_bytes == 0:
                    part.restart()
                if body.offset_bytes != part.num_bytes:
                    raise FetchError(f"{url} sent another part than was asked for")
                if size_bytes is None:
                    size_bytes = body.size_bytes
                elif body.size_bytes not in (None, size_bytes):
                    raise FetchError(f"{url} has {body.size_bytes} bytes, and {size_bytes} were written", restart=True)
                self._copy(body, part, size_bytes)
        if size_bytes is not None and part.num_bytes != size_bytes:
            is_longer = part.num_bytes > size_bytes
            raise FetchError(f"{url} ended after {part.num_bytes} of {size_bytes} bytes", restart=is_longer)
        if wanted and part.sha256.hexdigest() != wanted.sha256:
            raise FetchError(f"{url} has other bytes than were written (SHA-256)", restart=True)

    def _copy(self, body: Body, part: "_Part", size_bytes: int | None) -> None:
        while data := body.read():
            part.append(data)
            self._count(downloaded_bytes=len(data))
            self._check_open()
            if size_bytes is not None and part.num_bytes > size_bytes:
                return

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise CorpusError(f"{self.url} was closed while a file was on its way")

    def _unreadable(self, name: str, error: FetchError, failures: int) -> UnreadableError:
        tries = "" if error.is_permanent else f", at attempt {failures}, the last one"
        advice = "check data.path and who may read it" if error.is_permanent else "check the server and the network"
        return UnreadableError(f"{error}{tries}: {advice}, then run the same command again", name, 0)


class _Part:
    """The first bytes of a file, with their hash."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.num_bytes = 0
        file.seek(0)
        while data := file.read(2**20):
            self.sha256.update(data)
            self.num_bytes += len(data)

    def append(self, data: bytes) -> None:
        self._file.write(data)
        self.sha256.update(data)
        self.num_bytes += len(data)

    def restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self.sha256 = hashlib.sha256()
        self.num_bytes = 0


def backoff_s(failures: int, timeout_s: float) -> float:
    """Return how long to wait after that many failures in a row: twice as long each time, and not all ranks at once."""
    longest_s = min(FIRST_WAIT * 2.0 ** (failures - 1), LONGEST_WAIT) * timeout_s
    return longest_s * random.uniform(0.5, 1.0)
