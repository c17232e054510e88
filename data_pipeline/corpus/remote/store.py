"""The store of a corpus at a URL: its files come into the cache, checked, when they are needed or ahead of that."""

import hashlib
import io
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO

from foretrain.configs.data import CacheConfig
from foretrain.data_pipeline.corpus.manifest import MANIFEST
from foretrain.data_pipeline.corpus.remote.cache import Cache, CachedFile
from foretrain.data_pipeline.corpus.remote.command import CommandTransport
from foretrain.data_pipeline.corpus.remote.download import Download
from foretrain.data_pipeline.corpus.remote.file_system import FsspecTransport
from foretrain.data_pipeline.corpus.remote.http import HttpTransport
from foretrain.data_pipeline.corpus.remote.transport import Transport
from foretrain.data_pipeline.corpus.store import Store, StoreCounts
from foretrain.data_pipeline.errors import CorpusError


def transport_of(url: str, timeout_s: float) -> Transport:
    """Return the transport of a URL. Raises CorpusError if there is none."""
    scheme = url.partition(":")[0].lower()
    if scheme in ("http", "https"):
        return HttpTransport(url, timeout_s)
    return CommandTransport(url, timeout_s) if scheme == "pipe" else FsspecTransport(url, timeout_s)


class RemoteStore(Store):
    """The files of one URL, through the cache of this machine."""

    is_local = False

    def __init__(self, url: str, config: CacheConfig) -> None:
        self.url = url
        self._config = config
        self._expected: dict[str, CachedFile] = {}
        self._start()
        manifest = io.BytesIO()
        self._download(MANIFEST, None, manifest)
        self._manifest = manifest.getvalue()
        self.expect(MANIFEST, len(self._manifest), hashlib.sha256(self._manifest).hexdigest())
        self._open_cache()

    def _start(self) -> None:
        """Set up everything that a copy in another process does not share."""
        self._transport = transport_of(self.url, self._config.timeout_s)
        self._counts = dict.fromkeys(asdict(StoreCounts()), 0)
        self._pinned: dict[str, BinaryIO] = {}
        """Small files, which stay in the cache while they are open."""
        self._changed = threading.Condition()
        """Guards the counts and the names to prefetch."""
        self._closed = threading.Event()
        self._ahead: list[str] = []
        self._queue: deque[str] = deque()
        self._thread: threading.Thread | None = None

    def _open_cache(self) -> None:
        default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "foretrain"
        root = Path(self._config.dir or default).expanduser()
        manifest_sha256 = self._expected[MANIFEST].sha256
        max_bytes, checks_hits = int(self._config.max_gb * 1e9), self._config.check_hits
        self._cache = Cache(root, self.url, manifest_sha256, max_bytes, checks_hits=checks_hits)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("url", "_config", "_expected", "_manifest")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start()
        self._open_cache()

    def expect(self, name: str, size_bytes: int | None, sha256: str, max_bytes: int | None = None) -> None:
        """Set what the manifest says of a file. Only the manifest itself can be fetched without it."""
        if Path(name).name != name:
            raise CorpusError(f"{self.url}/{MANIFEST} names a file {name!r} outside of its folder: it is damaged")
        self._expected[name] = CachedFile(name, size_bytes, sha256, max_bytes=max_bytes)

    def path(self, name: str) -> Path:
        """Return the path of a small file in the cache, where it stays until this store is closed."""
        file = replace(self._expected[name], is_pinned=True)
        with self._changed:
            is_there = name in self._pinned and self._cache.path(file).exists()
        if not is_there:
            descriptor, _ = self._fetch(file)
            with self._changed:
                self._pinned[name] = os.fdopen(descriptor, "rb")
        return self._cache.path(file)

    def open(self, name: str) -> int:
        """Return a file descriptor of a shard, which is fetched first unless it is in the cache."""
        descriptor, is_fetched = self._fetch(self._expected[name])
        self._count(misses=int(is_fetched), hits=int(not is_fetched))
        return descriptor

    @property
    def counts(self) -> StoreCounts:
        """What this store has done so far in this process."""
        with self._changed:
            return StoreCounts(**self._counts)

    def prefetch(self, names: Iterable[str]) -> None:
        """Fetch shards in this order, as many as fit into prefetch_gb and into half of the cache."""
        room_bytes = min(self._config.prefetch_gb * 1e9, self._cache.max_bytes / 2)
        ahead: list[str] = []
        for name in dict.fromkeys(names):
            room_bytes -= self._expected[name].size_bytes or 0
            if room_bytes < 0:
                break
            ahead.append(name)
        with self._changed:
            if ahead == self._ahead or self._closed.is_set():
                return
            for name in reversed(ahead):  # the shard that is needed first is evicted last
                self._cache.touch(self._expected[name])
            self._ahead, self._queue = ahead, deque(ahead)
            if self._thread is None and ahead:
                self._thread = threading.Thread(target=self._prefetch_queue, name="prefetch", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self) -> None:
        """Stop the work in the background. After that, nothing can be fetched."""
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
            pinned, self._pinned = list(self._pinned.values()), {}
        for file in pinned:
            file.close()
        if self._thread is not None:
            self._thread.join(timeout=1.0)  # it may wait for a server

    def _prefetch_queue(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed.is_set())
                if self._closed.is_set():
                    return
                file = self._expected[self._queue.popleft()]
            with suppress(CorpusError, OSError):  # the error is raised again if the shard is needed
                opened = self._cache.open_or_fetch(file, self._fetcher(file), is_prefetch=True)
                if opened is not None:
                    os.close(opened[0])

    def _fetch(self, file: CachedFile) -> tuple[int, bool]:
        opened = self._cache.open_or_fetch(file, self._fetcher(file))
        assert opened is not None
        return opened

    def _fetcher(self, file: CachedFile) -> Callable[[BinaryIO], None]:
        if file.name == MANIFEST:
            return self._write_manifest
        return lambda target: self._download(file.name, file, target)

    def _write_manifest(self, target: BinaryIO) -> None:
        target.truncate(0)
        target.write(self._manifest)

    def _download(self, name: str, expected: CachedFile | None, target: BinaryIO) -> None:
        def on_bytes(num_bytes: int) -> None:
            self._count(downloaded_bytes=num_bytes)
            self._check_open()

        def wait(seconds: float) -> None:
            self._count(retries=1)
            self._closed.wait(seconds)
            self._check_open()

        download = Download(self._transport, name, expected, target, on_bytes=on_bytes, wait=wait)
        download.run(self._config.retries, self._config.timeout_s)

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise CorpusError(f"{self.url} was closed during a download")

    def _count(self, **more: int) -> None:
        with self._changed:
            for name, number in more.items():
                self._counts[name] += number
