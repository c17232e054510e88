"""What must not grow with the corpus: the time to resume, and the memory of the index.

A corpus of 10 TB is simulated. Its manifest of 40,000 shards and its index of 10 million members are as `prepare` would
write them, but every shard is the same sparse file, whose tokens are zeros. All other code is that of a run.
"""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data.contest import EOT_ID, VOCAB_SIZE, Settings, open_source
from benchmarks.data.ours import one_corpus, two_corpora, write_corpus
from foretrain.data_pipeline.corpus.index import COLUMNS, Index
from foretrain.data_pipeline.corpus.manifest import VERSION, Manifest, ShardInfo, SplitInfo, index_name
from foretrain.data_pipeline.corpus.shards import TokenStream
from foretrain.data_pipeline.corpus.store import FolderStore
from foretrain.data_pipeline.stream.batch import Batch
from foretrain.data_pipeline.stream.batches import Batches
from foretrain.data_pipeline.stream.data import open_data
from foretrain.data_pipeline.stream.mixture import Mixture, SourceShare
from foretrain.data_pipeline.stream.order import Order
from foretrain.data_pipeline.stream.packing import open_samples
from foretrain.data_pipeline.stream.samples import SampleStream, Source

NUM_SHARDS = 40_000
SHARD_MEMBERS = 256
MEMBER_BYTES = 1 << 20
MEMBER_DOCUMENTS = 524
HEADER_BYTES = 512 + 128
"""Size of the header of a tar member and of the header of the .npy file in it."""
STRIDE_BYTES = MEMBER_BYTES + (6 << 10)
"""Distance of two members with tokens; headers, padding and the lengths of documents are between them."""

NUM_SAMPLES = 10**10
NUM_RESUMES = 100
NUM_READS = 200
SHARD = "shard.tar"


class SameShard(FolderStore):
    """A folder in which all shards are the same file."""

    is_local = False  # so that the shards are not checked when the corpus is opened

    def open(self, name: str) -> int:
        return super().open(SHARD)


def write(folder: Path, settings: Settings) -> dict[str, Any]:
    """Write the simulated corpus, and a real one in two parts."""
    source = open_source(folder.parent)
    small = folder / "small"
    small.mkdir(parents=True)
    for name in ("first", "second"):
        write_corpus(source.documents(), len(source.tokens), small / name)
    member_tokens = MEMBER_BYTES // 2
    num_members = NUM_SHARDS * SHARD_MEMBERS
    columns = np.lib.format.open_memmap(
        folder / index_name("train"), mode="w+", dtype="<i8", shape=(len(COLUMNS), num_members + 1)
    )
    columns[0] = np.arange(num_members + 1) * member_tokens
    in_shard = np.arange(num_members) % SHARD_MEMBERS
    columns[1, :-1] = HEADER_BYTES + in_shard * STRIDE_BYTES
    columns[2, :-1] = columns[1, :-1] + MEMBER_BYTES + HEADER_BYTES
    columns[3:, :-1] = MEMBER_DOCUMENTS
    columns.flush()
    with (folder / SHARD).open("wb") as file:
        file.truncate(SHARD_MEMBERS * STRIDE_BYTES + 1024)
    _simulated_manifest(SHARD_MEMBERS * member_tokens).write(folder)
    return {"index_file_mb": (folder / index_name("train")).stat().st_size / 1e6}


def resume(folder: Path, settings: Settings) -> dict[str, Any]:
    """Return the slowest of many resumes in streams of 10 billion samples, ms."""
    small = folder / "small"
    cases: dict[str, Callable[[], SampleStream]] = {
        "one_corpus": lambda: open_data(one_corpus(small / "first"), settings.seq_len).train,
        "mixture": lambda: open_data(two_corpora(small), settings.seq_len).train,
    }
    result = {f"resume_{name}_ms": _slowest_ms(open_stream, settings) for name, open_stream in cases.items()}
    start_s = time.perf_counter()
    tokens = _open_simulated(folder)
    result["open_10tb_s"] = time.perf_counter() - start_s
    result["resume_10tb_ms"] = _slowest_ms(lambda: _samples_of(tokens, settings.seq_len), settings)
    return {**result, "resume_ms": max(ms for name, ms in result.items() if name.endswith("_ms"))}


def index_memory(folder: Path, settings: Settings) -> dict[str, Any]:
    """Return the peak memory of this process after it read batches from all over the 10 TB, MB."""
    before_mb = _peak_mb()
    batches = _batches(_samples_of(_open_simulated(folder), settings.seq_len), settings)
    opened_mb = _peak_mb()
    for g in _places(NUM_READS):
        _check(batches.batch(g), settings)
    return {"before_index_peak_mb": before_mb, "opened_index_peak_mb": opened_mb, "index_peak_mb": _peak_mb()}


def _slowest_ms(open_stream: Callable[[], SampleStream], settings: Settings) -> float:
    """Return the longest time to open a stream and read a batch at a random place, over many places, ms."""
    slowest_s = 0.0
    for g in _places(NUM_RESUMES):
        start_s = time.perf_counter()
        batch = _batches(open_stream(), settings).batch(g)
        slowest_s = max(slowest_s, time.perf_counter() - start_s)
        _check(batch, settings)
    return slowest_s * 1e3


def _places(count: int) -> list[int]:
    """Return the last place from which a batch can be read, and random places."""
    return [NUM_SAMPLES - 1024, *np.random.default_rng(0).integers(NUM_SAMPLES - 1024, size=count - 1).tolist()]


def _batches(stream: SampleStream, settings: Settings) -> Batches:
    return Batches(stream, settings.batch_size, dp_rank=0, dp_size=1)


def _check(batch: Batch, settings: Settings) -> None:
    assert batch.tokens_BL.shape == (settings.batch_size, settings.seq_len)


def _open_simulated(folder: Path) -> TokenStream:
    manifest = Manifest.read(folder)
    index = Index.open(folder / index_name("train"), manifest.splits["train"])
    return TokenStream(SameShard(folder), manifest, "train", index)


def _samples_of(tokens: TokenStream, seq_len: int) -> SampleStream:
    samples = open_samples(tokens, seq_len, "windows")
    source = Source("", tokens, samples, Order(samples.shard_starts, "order/0"))
    return SampleStream([source], Mixture([SourceShare("", samples.num_samples, 1.0)]), seq_len, seed=0)


def _simulated_manifest(shard_tokens: int) -> Manifest:
    shards = [
        ShardInfo(
            name=f"train-{number:06d}.tar",
            num_tokens=shard_tokens,
            num_documents=SHARD_MEMBERS * MEMBER_DOCUMENTS,
            num_members=SHARD_MEMBERS,
            size_bytes=SHARD_MEMBERS * STRIDE_BYTES + 1024,
            sha256=hashlib.sha256(str(number).encode()).hexdigest(),
        )
        for number in range(NUM_SHARDS)
    ]
    num_documents = NUM_SHARDS * SHARD_MEMBERS * MEMBER_DOCUMENTS
    train = SplitInfo(NUM_SHARDS * shard_tokens, num_documents, 4 * NUM_SHARDS * shard_tokens, "", shards)
    return Manifest(VERSION, "uint16", VOCAB_SIZE, EOT_ID, "", {"train": train}, 0.0, 0, [], "")


def _peak_mb() -> float:
    """Return the peak memory of this process so far, with shared pages of files."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
