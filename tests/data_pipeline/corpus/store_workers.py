"""Functions that other processes run in the tests of stores."""

import fcntl
import hashlib
import os
from pathlib import Path

from foretrain.configs.data import CacheConfig
from foretrain.data_pipeline.corpus.remote.store import RemoteStore
from foretrain.data_pipeline.corpus.store import Store, StoreCounts

FAST = CacheConfig(max_gb=1e-3, prefetch_gb=1e-3, timeout_s=2.0, retries=3)
"""1 MB of cache, and waits of 30 to 300 ms."""


def expect_all(store: Store, folder: Path) -> Store:
    """Set what the store expects of the files of a folder, as `open_corpus` does."""
    for file in folder.iterdir():
        content = file.read_bytes()
        if file.name != "manifest.json":
            store.expect(file.name, len(content), hashlib.sha256(content).hexdigest())
    return store


def remote_store(url: str, folder: Path, cache_dir: Path, **changes: float) -> RemoteStore:
    """Return a store of a URL that knows the sizes and hashes of the files of a folder."""
    store = RemoteStore(url, CacheConfig(**{**vars(FAST), "dir": str(cache_dir), **changes}))
    expect_all(store, folder)
    return store


def contents(store: Store, name: str) -> bytes:
    """Return the content of a shard."""
    with os.fdopen(store.open(name), "rb") as file:
        return file.read()


def open_one(url: str, folder: Path, cache_dir: Path, name: str) -> tuple[str, StoreCounts]:
    """Open a shard in this process; return its SHA-256 and the store's counts."""
    store = remote_store(url, folder, cache_dir)
    return hashlib.sha256(contents(store, name)).hexdigest(), store.counts


def open_many(url: str, folder: Path, cache_dir: Path, names: list[str], max_gb: float) -> tuple[int, int]:
    """Open shards one after another; return the number of wrong ones, and the largest total size of the cache."""
    store = remote_store(url, folder, cache_dir, max_gb=max_gb)
    num_wrong = most_bytes = 0
    for name in names:
        num_wrong += contents(store, name) != (folder / name).read_bytes()
        with (cache_dir / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # so that the files do not change during the count
            files = [file for file in cache_dir.glob("*.corpus/**/*") if file.is_file()]
            most_bytes = max(most_bytes, sum(file.stat().st_size for file in files))
    return num_wrong, most_bytes


def use_copy(store: Store, name: str) -> tuple[bytes, bytes, StoreCounts]:
    """Return what a pickled store yields in this process: a shard, a small file, and its counts."""
    store.prefetch([name])
    return contents(store, name), store.path("manifest.json").read_bytes(), store.counts
