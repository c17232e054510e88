"""Fixtures for remote stores: files, a server that fails on request, and other processes."""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from foretrain.data_pipeline.corpus.remote.store import RemoteStore
from tests.data_pipeline.corpus.http_server import FaultyServer, serving
from tests.data_pipeline.corpus.served import SHARD_BYTES, SHARDS, MakeStore
from tests.data_pipeline.corpus.store_workers import remote_store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files with random bytes, which tests only read."""
    folder = tmp_path_factory.mktemp("remote")
    random = np.random.default_rng(0)
    for name in SHARDS:
        (folder / name).write_bytes(random.bytes(SHARD_BYTES))
    (folder / "tokenizer.json").write_bytes(random.bytes(1000))
    (folder / "manifest.json").write_text('{"version": 2}')
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[FaultyServer]:
    with serving(folder) as server:
        yield server


@pytest.fixture
def make(folder: Path, server: FaultyServer, tmp_path: Path) -> Iterator[MakeStore]:
    """make(**changes of the cache's settings) -> a store of the server."""
    stores = []

    def make(**changes: float) -> RemoteStore:
        stores.append(remote_store(server.url, folder, tmp_path / "cache", **changes))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    """Other processes, which share only the disk with this one."""
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool
