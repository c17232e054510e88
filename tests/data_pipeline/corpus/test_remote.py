"""Files over http, from a real web server that fails in all the requested ways."""

import hashlib
import pickle
import time
from email.utils import formatdate
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.data_pipeline.corpus.remote.download import backoff_s
from foretrain.data_pipeline.corpus.shards import open_corpus
from foretrain.data_pipeline.errors import CorpusError, UnreadableError
from tests.data_pipeline.corpus.http_server import Fault, FaultyServer, serving
from tests.data_pipeline.corpus.served import (
    SHARD,
    SHARD_BYTES,
    STALL_S,
    MakeStore,
    original_bytes,
    shards_in,
)
from tests.data_pipeline.corpus.store_workers import (
    FAST,
    contents,
    remote_store,
)


def test_a_shard_is_fetched_once_and_then_read_from_the_cache(
    make: MakeStore, server: FaultyServer, folder: Path
) -> None:
    store = make()
    assert not store.is_local and store.url == server.url
    for _ in range(3):
        assert contents(store, SHARD) == original_bytes(folder)
    assert (store.counts.misses, store.counts.hits, store.counts.retries) == (1, 2, 0)
    assert store.counts.downloaded_bytes == SHARD_BYTES + 14
    assert contents(make(), SHARD) == original_bytes(folder)  # another store, the same cache
    assert server.requested(SHARD) == [0]


FAULTS = {
    "500": Fault(status=500),
    "503": Fault(status=503),
    "429": Fault(status=429, headers={"Retry-After": "0"}),
    "a bad Retry-After": Fault(status=503, headers={"Retry-After": "soon"}),
    "408": Fault(status=408),
    "connection cut before the body": Fault(cut_after=0),
    "connection cut": Fault(cut_after=70_000),
    "connection reset": Fault(reset_after=70_000),
    "stalls before its headers": Fault(stall_at_once=True),
    "stalls": Fault(stall_after=70_000),
    "wrong bytes": Fault(flip=True),
    "too short": Fault(shorten=1),
    "too long": Fault(headers={"Content-Length": str(SHARD_BYTES + 1)}),
    "nothing": Fault(shorten=SHARD_BYTES),
}


RANGES = [True, pytest.param(False, marks=pytest.mark.long)]
QUICK_FAULTS = ("503", "connection cut", "stalls", "wrong bytes", "too short")
QUICK_AND_LONG_FAULTS = [
    pytest.param(fault, id=name, marks=() if name in QUICK_FAULTS else pytest.mark.long)
    for name, fault in FAULTS.items()
]


@pytest.mark.parametrize("fault", QUICK_AND_LONG_FAULTS)
@pytest.mark.parametrize("has_ranges", RANGES, ids=["ranges", "no ranges"])
def test_a_fault_is_retried_until_the_right_bytes_arrive(
    make: MakeStore, server: FaultyServer, folder: Path, fault: Fault, has_ranges: bool
) -> None:
    stalls = fault.stall_at_once or fault.stall_after is not None
    store = make(timeout_s=STALL_S if stalls else 30.0, retries=8)
    server.has_ranges = has_ranges
    server.faults[SHARD].extend([fault, fault])
    assert contents(store, SHARD) == original_bytes(folder)
    assert store.counts.retries == len(server.requested(SHARD)) - 1 > 0


@pytest.mark.parametrize("fault", QUICK_AND_LONG_FAULTS)
def test_a_permanent_fault_is_an_error_that_names_the_url_and_the_shard(
    make: MakeStore, server: FaultyServer, folder: Path, tmp_path: Path, fault: Fault
) -> None:
    store = make(retries=1, timeout_s=STALL_S)
    server.has_ranges = False
    server.always[SHARD] = fault
    with pytest.raises(UnreadableError) as raised:
        store.open(SHARD)
    assert f"{server.url}/{SHARD}" in str(raised.value) and "run the same command again" in str(raised.value)
    assert (raised.value.shard, raised.value.offset_bytes) == (SHARD, 0)
    assert store.counts.retries >= 1
    assert SHARD not in shards_in(tmp_path / "cache")
    del server.always[SHARD]
    assert contents(store, SHARD) == original_bytes(folder)


@pytest.mark.parametrize(("status", "reason"), [(404, "Not Found"), (403, "Forbidden"), (401, "Unauthorized")])
def test_an_answer_that_will_not_change_is_not_retried(
    make: MakeStore, server: FaultyServer, status: int, reason: str
) -> None:
    store = make()
    server.always[SHARD] = Fault(status=status)
    with pytest.raises(UnreadableError, match=rf"{SHARD} answers {status} {reason}: check data\.path and who may"):
        store.open(SHARD)
    assert server.requested(SHARD) == [0] and store.counts.retries == 0


def test_a_missing_corpus_is_reported_when_it_is_opened(server: FaultyServer, tmp_path: Path) -> None:
    server.always["manifest.json"] = Fault(status=404)
    with pytest.raises(CorpusError, match=r"corpus/manifest\.json answers 404 Not Found: check data\.path"):
        remote_store(server.url, tmp_path, tmp_path / "cache")


def test_a_missing_server_is_retried_and_then_reported(server: FaultyServer, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"manifest\.json.*Connection refused.*, at attempt 2, the last one: check"):
        remote_store("http://127.0.0.1:9/corpus", tmp_path, tmp_path / "cache", retries=1)


def test_the_wait_that_a_server_requests_is_respected(make: MakeStore, server: FaultyServer, folder: Path) -> None:
    store = make()
    start_s = time.monotonic()
    in_three_s = formatdate(time.time() + 3, usegmt=True)  # in full seconds: 2 to 3
    server.faults[SHARD].extend(Fault(status=503, headers={"Retry-After": wait}) for wait in ("1", in_three_s))
    assert contents(store, SHARD) == original_bytes(folder)
    assert time.monotonic() - start_s >= 1.5  # the waits themselves are 33 to 133 ms


def test_waits_double_up_to_a_limit_and_are_random() -> None:
    waits = [[backoff_s(failures, 30.0) for _ in range(50)] for failures in range(1, 12)]
    for failures, longest_s in zip(range(11), [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60], strict=True):
        assert longest_s / 2 <= min(waits[failures]) < max(waits[failures]) <= longest_s
        assert len(set(waits[failures])) > 40


def test_a_download_resumes_where_the_connection_broke(make: MakeStore, server: FaultyServer, folder: Path) -> None:
    store = make(timeout_s=STALL_S, retries=8)
    server.faults[SHARD].extend([Fault(cut_after=30_000), Fault(reset_after=30_000), Fault(stall_after=30_000)])
    assert contents(store, SHARD) == original_bytes(folder)
    starts = server.requested(SHARD)
    assert starts[0] == 0 and starts == sorted(starts) and len(set(starts)) == 4
    assert store.counts.downloaded_bytes == SHARD_BYTES + 14


def test_a_shard_arrives_even_if_the_connection_breaks_more_often_than_there_are_retries(
    make: MakeStore, server: FaultyServer, folder: Path
) -> None:
    store = make(retries=1, timeout_s=0.5)
    server.always[SHARD] = Fault(cut_after=10_000)
    assert contents(store, SHARD) == original_bytes(folder)
    assert server.requested(SHARD) == list(range(0, SHARD_BYTES, 10_000))


@pytest.mark.parametrize(
    "fault", [Fault(shift=1000), Fault(headers={"Content-Range": "bytes"}), Fault(headers={"Content-Range": ""})]
)
def test_a_part_that_was_not_requested_is_rejected(
    make: MakeStore, server: FaultyServer, folder: Path, fault: Fault
) -> None:
    store = make()
    server.faults[SHARD].extend([Fault(cut_after=50_000), fault])
    assert contents(store, SHARD) == original_bytes(folder)
    assert server.requested(SHARD) == [0, 50_000, 50_000]


def test_small_files_are_retried_and_available_as_paths_and_bytes(
    make: MakeStore, server: FaultyServer, folder: Path, tmp_path: Path
) -> None:
    server.faults["manifest.json"].extend([Fault(status=500), Fault(cut_after=5)])
    store = make(timeout_s=STALL_S)
    server.faults["tokenizer.json"].extend([Fault(flip=True), Fault(stall_after=0)])
    for name in ("manifest.json", "tokenizer.json"):
        assert store.read(name) == store.path(name).read_bytes() == original_bytes(folder, name)
        assert store.path(name).is_relative_to(tmp_path / "cache")
    assert len(server.requested("tokenizer.json")) == 3


def test_a_small_file_of_unknown_size_is_checked(make: MakeStore, server: FaultyServer, folder: Path) -> None:
    store = make()
    store.expect("tokenizer.json", None, hashlib.sha256(original_bytes(folder, "tokenizer.json")).hexdigest())
    server.faults["tokenizer.json"].extend([Fault(flip=True), Fault(shorten=1), Fault(cut_after=400)])
    assert store.read("tokenizer.json") == original_bytes(folder, "tokenizer.json")


@pytest.mark.parametrize("more", [b"", b"more"])
def test_a_part_as_long_as_the_file_or_longer_is_completed(
    make: MakeStore, folder: Path, tmp_path: Path, more: bytes
) -> None:
    store = make()
    for name, size_bytes in ((SHARD, SHARD_BYTES), ("tokenizer.json", None)):
        store.expect(name, size_bytes, hashlib.sha256(original_bytes(folder, name)).hexdigest())
        (corpus,) = (tmp_path / "cache").glob("*.corpus")
        part = (corpus if size_bytes else corpus / "kept") / f"{name}.{size_bytes or 0}.part"
        part.write_bytes(original_bytes(folder, name) + more)
    assert contents(store, SHARD) == original_bytes(folder)
    assert store.read("tokenizer.json") == original_bytes(folder, "tokenizer.json")


def test_a_manifest_cannot_name_files_in_other_folders(make: MakeStore) -> None:
    with pytest.raises(CorpusError, match=r"manifest\.json names a file '\.\./x' outside of its folder"):
        make().expect("../x", 1, "0")


@settings(deadline=None, max_examples=12)
@given(
    faults=st.lists(
        st.builds(Fault, status=st.sampled_from([500, 503, 429]))
        | st.builds(Fault, cut_after=st.integers(0, SHARD_BYTES))
        | st.builds(Fault, reset_after=st.integers(0, SHARD_BYTES))
        | st.builds(Fault, shorten=st.integers(1, SHARD_BYTES))
        | st.builds(Fault, shift=st.integers(1, 100))
        | st.just(Fault(flip=True)),
        max_size=6,
    ),
    has_ranges=st.booleans(),
)
def test_any_sequence_of_faults_ends_in_the_right_bytes(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, faults: list[Fault], has_ranges: bool
) -> None:
    with serving(folder) as server:
        server.has_ranges = has_ranges
        store = remote_store(server.url, folder, tmp_path_factory.mktemp("cache"), timeout_s=0.1, retries=30)
        server.faults[SHARD].extend(faults)
        assert contents(store, SHARD) == original_bytes(folder)


def test_the_stream_from_a_faulty_server_equals_the_local_stream(corpus: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    kinds = [Fault(status=503), Fault(cut_after=2000), Fault(reset_after=500), Fault(flip=True), Fault(shorten=9)]
    with serving(corpus) as server:
        for file in corpus.iterdir():
            is_checked = file.name != "manifest.json"  # which has no other checksum than its own
            chosen = random.integers(len(kinds) if is_checked else 3, size=3)
            server.faults[file.name].extend(kinds[kind] for kind in chosen)
        settings = {**vars(FAST), "dir": str(tmp_path), "retries": 30, "timeout_s": 0.1}
        for split in ("train", "val"):
            local, remote = open_corpus(corpus, split), open_corpus(server.url, split, type(FAST)(**settings))
            assert remote.fingerprint == local.fingerprint and remote.num_tokens == local.num_tokens
            assert np.array_equal(remote.read(0, remote.num_tokens), local.read(0, local.num_tokens))
        assert remote.store.counts.retries > 0
    copy = pickle.loads(pickle.dumps(remote))  # the server is gone, and the cache is enough
    assert np.array_equal(copy.read(0, 100), local.read(0, 100))


def test_a_shard_that_cannot_be_fetched_ends_the_reading_and_is_not_skipped(corpus: Path, tmp_path: Path) -> None:
    local = open_corpus(corpus, "train")
    away = local.shard_names[1]
    start = int(local.shard_starts[1])
    with serving(corpus) as server:
        settings = {**vars(FAST), "dir": str(tmp_path), "retries": 1}
        remote = open_corpus(server.url, "train", type(FAST)(**settings))
        server.always[away] = Fault(status=500)
        for _ in range(2):
            with pytest.raises(UnreadableError, match=away):
                remote.read(start - 10, 20)
        assert np.array_equal(remote.read(0, start), local.read(0, start))
        del server.always[away]
        assert np.array_equal(remote.read(start - 10, 20), local.read(start - 10, 20))
