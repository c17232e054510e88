"""Names and sizes of the files that the tests of remote stores serve, and a wait for a condition."""

import time
from collections.abc import Callable
from pathlib import Path

from foretrain.data_pipeline.corpus.remote.store import RemoteStore

NUM_SHARDS = 6
SHARD_BYTES = 100_000
SHARDS = [f"train-{number:06d}.tar" for number in range(NUM_SHARDS)]
SHARD = SHARDS[0]

STALL_S = 1.0
"""The timeout in tests that wait for one."""

MakeStore = Callable[..., RemoteStore]


def original_bytes(folder: Path, name: str = SHARD) -> bytes:
    return (folder / name).read_bytes()


def shards_in(cache_dir: Path) -> list[str]:
    return sorted(file.name for file in cache_dir.glob("*.corpus/train-*"))


def wait_for(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end_s, "the condition did not become true"
        time.sleep(0.005)
