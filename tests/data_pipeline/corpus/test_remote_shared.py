"""One cache for several processes and corpora, whoever dies in the middle."""

import hashlib
import multiprocessing
import os
import pickle
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.data_pipeline.corpus.http_server import Fault, FaultyServer
from tests.data_pipeline.corpus.served import (
    SHARD,
    SHARD_BYTES,
    SHARDS,
    MakeStore,
    original_bytes,
    shards_in,
    wait_for,
)
from tests.data_pipeline.corpus.store_workers import (
    contents,
    open_many,
    open_one,
    remote_store,
    use_copy,
)


def test_processes_that_open_one_shard_at_once_fetch_it_once(
    processes: ProcessPoolExecutor, server: FaultyServer, folder: Path, tmp_path: Path
) -> None:
    server.gate.clear()
    opened = [processes.submit(open_one, server.url, folder, tmp_path, SHARD) for _ in range(4)]
    wait_for(lambda: len(server.requested("manifest.json")) == 4 and server.requested(SHARD) == [0])
    server.gate.set()
    results = [future.result() for future in opened]
    assert server.requested(SHARD) == [0]
    assert {sha256 for sha256, _ in results} == {hashlib.sha256(original_bytes(folder)).hexdigest()}
    assert sorted(counts.misses for _, counts in results) == [0, 0, 0, 1]
    assert sum(counts.hits for _, counts in results) == 3


def test_a_waiting_store_gets_the_shard_while_the_store_that_fetched_it_still_reads(
    make: MakeStore, server: FaultyServer, folder: Path
) -> None:
    server.gate.clear()
    stores = [make() for _ in range(4)]
    files: list[int] = []
    for store in stores:  # daemons: one that waits for ever is a failure here, and does not hold up the end
        threading.Thread(target=lambda store=store: files.append(store.open(SHARD)), daemon=True).start()
    wait_for(lambda: server.requested(SHARD) == [0])
    server.gate.set()
    wait_for(lambda: len(files) == len(stores))  # all are open at once
    for file in files:
        assert os.pread(file, SHARD_BYTES * 2, 0) == original_bytes(folder)
        os.close(file)
    assert server.requested(SHARD) == [0]


def test_the_limit_holds_with_several_processes_at_once(
    processes: ProcessPoolExecutor, server: FaultyServer, folder: Path, tmp_path: Path
) -> None:
    orders = [np.random.default_rng(seed).choice(SHARDS, 25).tolist() for seed in range(4)]
    used = [processes.submit(open_many, server.url, folder, tmp_path, order, 3.5e-4) for order in orders]
    num_wrong, most_bytes = zip(*(future.result() for future in used), strict=True)
    assert num_wrong == (0, 0, 0, 0)
    assert 2 * SHARD_BYTES < max(most_bytes) <= 350_000


@pytest.mark.parametrize("is_damaged", [False, True])
def test_the_part_of_a_killed_process_is_resumed_and_checked(
    make: MakeStore, server: FaultyServer, folder: Path, tmp_path: Path, is_damaged: bool
) -> None:
    store = make()
    context = multiprocessing.get_context("spawn")
    victim = context.Process(target=open_one, args=(server.url, folder, tmp_path / "cache", SHARD))
    server.faults[SHARD].append(Fault(stall_after=60_000))
    victim.start()
    wait_for(lambda: any(part.stat().st_size > 0 for part in (tmp_path / "cache").glob("*.corpus/train-*")))
    assert victim.pid
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    (part,) = (tmp_path / "cache").glob("*.corpus/train-*")
    assert part.name == f"{SHARD}.{SHARD_BYTES}.part"
    num_bytes = part.stat().st_size
    if is_damaged:
        with part.open("r+b") as file:  # as a power cut may leave it
            file.write(bytes(1000))
    assert contents(store, SHARD) == original_bytes(folder)
    assert server.requested(SHARD) == [0, num_bytes, *([0] if is_damaged else [])]
    assert shards_in(tmp_path / "cache") == [SHARD]


def test_a_pickled_copy_works_in_another_process(
    processes: ProcessPoolExecutor, make: MakeStore, server: FaultyServer, folder: Path
) -> None:
    store = make()
    contents(store, SHARD)
    store.prefetch([SHARD])
    shard, manifest, counts = processes.submit(use_copy, store, SHARD).result()
    assert (shard, manifest) == (original_bytes(folder), original_bytes(folder, "manifest.json"))
    assert (counts.hits, counts.misses) == (1, 0)
    assert server.requested("manifest.json") == [0]
    assert pickle.loads(pickle.dumps(store)).counts.hits == 0


def test_another_manifest_is_another_corpus(server: FaultyServer, folder: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    changed.mkdir()
    (changed / "manifest.json").write_text('{"version": 2, "other": true}')
    (changed / SHARD).write_bytes(original_bytes(folder)[::-1])
    store = remote_store(server.url, folder, tmp_path / "cache")
    assert contents(store, SHARD) == original_bytes(folder)
    server.folder = changed
    other = remote_store(server.url, changed, tmp_path / "cache")
    assert contents(other, SHARD) == original_bytes(folder)[::-1]
    assert contents(store, SHARD) == original_bytes(folder)
