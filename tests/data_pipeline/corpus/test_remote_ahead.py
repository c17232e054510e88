"""Shards that are fetched before they are needed."""

import threading
import time
from pathlib import Path

import pytest

from foretrain.data_pipeline.errors import CorpusError, UnreadableError
from tests.data_pipeline.corpus.http_server import Fault, FaultyServer
from tests.data_pipeline.corpus.served import SHARD, SHARD_BYTES, SHARDS, MakeStore, original_bytes, shards_in, wait_for
from tests.data_pipeline.corpus.store_workers import (
    contents,
)


def test_shards_are_prefetched_in_the_order_of_need_up_to_the_limit(
    make: MakeStore, server: FaultyServer, folder: Path, tmp_path: Path
) -> None:
    store = make(prefetch_gb=3.5 * SHARD_BYTES / 1e9)
    order = [SHARDS[number] for number in (4, 1, 4, 5, 0, 2, 3)]
    store.prefetch(order)
    wait_for(lambda: shards_in(tmp_path / "cache") == sorted({*order[:4]}))
    time.sleep(0.1)
    assert [name for name, _ in server.requests[1:]] == [SHARDS[4], SHARDS[1], SHARDS[5]]
    for name in order[:4]:
        assert contents(store, name) == original_bytes(folder, name)
    assert (store.counts.hits, store.counts.misses) == (4, 0)
    store.prefetch([SHARDS[5], SHARDS[0]])
    wait_for(lambda: SHARDS[0] in shards_in(tmp_path / "cache"))
    assert server.requested(SHARDS[5]) == [0]


def test_prefetching_returns_at_once_and_open_waits_for_its_download(
    make: MakeStore, server: FaultyServer, folder: Path
) -> None:
    store = make()
    server.gate.clear()
    store.prefetch([SHARD])
    wait_for(lambda: server.requested(SHARD) == [0])
    server.gate.set()
    assert contents(store, SHARD) == original_bytes(folder)
    assert server.requested(SHARD) == [0]


def test_prefetching_does_not_evict_shards_that_are_needed_soon(
    make: MakeStore, server: FaultyServer, folder: Path, tmp_path: Path
) -> None:
    store = make(max_gb=4.5 * SHARD_BYTES / 1e9)
    for name in SHARDS[:4]:
        contents(store, name)
    store.prefetch([SHARDS[5], SHARDS[0], SHARDS[4]])
    wait_for(lambda: SHARDS[5] in shards_in(tmp_path / "cache"))
    time.sleep(0.1)
    assert contents(store, SHARDS[0]) == original_bytes(folder)
    assert server.requested(SHARDS[0]) == [0]
    assert server.requested(SHARDS[4]) == []  # more than half of the cache


def test_a_failed_prefetch_is_silent_until_the_shard_is_needed(make: MakeStore, server: FaultyServer) -> None:
    store = make(retries=1)
    server.always[SHARD] = Fault(status=500)
    store.prefetch([SHARD, SHARDS[1]])
    wait_for(lambda: server.requested(SHARDS[1]) == [0])
    assert len(server.requested(SHARD)) == 2
    with pytest.raises(UnreadableError, match="answers 500"):
        store.open(SHARD)


def test_nothing_is_prefetched_if_the_limit_is_zero_or_the_store_is_closed(
    make: MakeStore, server: FaultyServer
) -> None:
    make(prefetch_gb=0.0).prefetch(SHARDS)
    closed = make()
    closed.close()
    closed.prefetch(SHARDS)
    time.sleep(0.05)
    assert {name for name, _ in server.requests} == {"manifest.json"}


def test_closing_a_store_ends_its_downloads(make: MakeStore, server: FaultyServer) -> None:
    store = make()
    server.always[SHARD] = Fault(status=503, headers={"Retry-After": "500"})
    store.prefetch([SHARD])
    wait_for(lambda: server.requested(SHARD) == [0])
    assert [thread for thread in threading.enumerate() if thread.name == "prefetch"]
    store.close()
    wait_for(lambda: not [thread for thread in threading.enumerate() if thread.name == "prefetch"])
    with pytest.raises(CorpusError, match="was closed"):
        store.open(SHARD)
