"""Corpora elsewhere: a real web server that fails in all the ways it is told to, real commands, and fsspec."""

import hashlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from email.utils import formatdate
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.corpus.remote import RemoteStore, backoff_s
from data_pipeline.corpus.shards import open_corpus
from data_pipeline.errors import CorpusError, UnreadableError
from tests.data_pipeline.corpus.http_server import Fault, FaultyServer, serving
from tests.data_pipeline.corpus.store_workers import (
    FAST,
    contents,
    open_many,
    open_one,
    remote_store,
    use_copy,
)

NUM_SHARDS = 6
SHARD_BYTES = 100_000
SHARDS = [f"train-{number:06d}.tar" for number in range(NUM_SHARDS)]
SHARD = SHARDS[0]

STALL_S = 0.2
"""The timeout where a test waits for one."""

MakeStore = Callable[..., RemoteStore]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files with random bytes: read only."""
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
    """Other processes, which share nothing with this one but the disk."""
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def whole(folder: Path, name: str = SHARD) -> bytes:
    return (folder / name).read_bytes()


def shards_in(cache_dir: Path) -> list[str]:
    return sorted(file.name for file in cache_dir.glob("*.corpus/train-*"))


def wait_for(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end_s, "it did not come"
        time.sleep(0.005)


# One file over http


def test_a_shard_is_fetched_once_and_then_found(make: MakeStore, server: FaultyServer, folder: Path) -> None:
    store = make()
    assert not store.is_local and store.url == server.url
    for _ in range(3):
        assert contents(store, SHARD) == whole(folder)
    assert (store.counts.misses, store.counts.hits, store.counts.retries) == (1, 2, 0)
    assert store.counts.downloaded_bytes == SHARD_BYTES + 14
    assert contents(make(), SHARD) == whole(folder)  # another store, the same cache
    assert server.requested(SHARD) == [0]


def test_sizes_are_the_manifests_and_cost_no_request(make: MakeStore, server: FaultyServer) -> None:
    assert make().size(SHARD) == SHARD_BYTES
    assert server.requested(SHARD) == []


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


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize("has_ranges", [True, False], ids=["ranges", "no ranges"])
def test_a_fault_is_retried_and_what_comes_is_right(
    make: MakeStore, server: FaultyServer, folder: Path, fault: Fault, has_ranges: bool
) -> None:
    store = make(timeout_s=STALL_S, retries=8)
    server.has_ranges = has_ranges
    server.faults[SHARD].extend([fault, fault])
    assert contents(store, SHARD) == whole(folder)
    assert store.counts.retries == len(server.requested(SHARD)) - 1 > 0


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_that_stays_is_an_error_that_names_the_url_and_the_shard(
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
    assert contents(store, SHARD) == whole(folder)


@pytest.mark.parametrize(("status", "reason"), [(404, "Not Found"), (403, "Forbidden"), (401, "Unauthorized")])
def test_what_will_not_change_is_not_retried(make: MakeStore, server: FaultyServer, status: int, reason: str) -> None:
    store = make()
    server.always[SHARD] = Fault(status=status)
    with pytest.raises(UnreadableError, match=rf"{SHARD} answers {status} {reason}: check data\.path and who may"):
        store.open(SHARD)
    assert server.requested(SHARD) == [0] and store.counts.retries == 0


def test_a_corpus_that_is_not_there_is_told_when_it_is_opened(server: FaultyServer, tmp_path: Path) -> None:
    server.always["manifest.json"] = Fault(status=404)
    with pytest.raises(CorpusError, match=r"corpus/manifest\.json answers 404 Not Found: check data\.path"):
        remote_store(server.url, tmp_path, tmp_path / "cache")


def test_a_server_that_is_not_there_is_retried_and_then_told(server: FaultyServer, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"manifest\.json.*Connection refused.*, at attempt 2, the last one: check"):
        remote_store("http://127.0.0.1:9/corpus", tmp_path, tmp_path / "cache", retries=1)


def test_a_server_is_not_asked_again_before_it_wants_to_be(make: MakeStore, server: FaultyServer, folder: Path) -> None:
    store = make()
    start_s = time.monotonic()
    in_three_s = formatdate(time.time() + 3, usegmt=True)  # in whole seconds: 2 to 3
    server.faults[SHARD].extend(Fault(status=503, headers={"Retry-After": wait}) for wait in ("1", in_three_s))
    assert contents(store, SHARD) == whole(folder)
    assert time.monotonic() - start_s >= 1.5  # the waits themselves are 33 to 133 ms


def test_waits_double_up_to_a_limit_and_are_never_the_same() -> None:
    waits = [[backoff_s(failures, 30.0) for _ in range(50)] for failures in range(1, 12)]
    for failures, longest_s in zip(range(11), [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60], strict=True):
        assert longest_s / 2 <= min(waits[failures]) < max(waits[failures]) <= longest_s
        assert len(set(waits[failures])) > 40


def test_a_cut_connection_goes_on_where_it_was_cut(make: MakeStore, server: FaultyServer, folder: Path) -> None:
    store = make(timeout_s=STALL_S, retries=8)
    server.faults[SHARD].extend([Fault(cut_after=30_000), Fault(reset_after=30_000), Fault(stall_after=30_000)])
    assert contents(store, SHARD) == whole(folder)
    starts = server.requested(SHARD)
    assert starts[0] == 0 and starts == sorted(starts) and len(set(starts)) == 4
    assert store.counts.downloaded_bytes == SHARD_BYTES + 14


def test_a_line_that_breaks_more_often_than_there_are_retries_still_gets_a_shard_through(
    make: MakeStore, server: FaultyServer, folder: Path
) -> None:
    store = make(retries=1, timeout_s=0.5)
    server.always[SHARD] = Fault(cut_after=10_000)
    assert contents(store, SHARD) == whole(folder)
    assert server.requested(SHARD) == list(range(0, SHARD_BYTES, 10_000))


@pytest.mark.parametrize(
    "fault", [Fault(shift=1000), Fault(headers={"Content-Range": "bytes"}), Fault(headers={"Content-Range": ""})]
)
def test_a_part_that_was_not_asked_for_is_not_taken(
    make: MakeStore, server: FaultyServer, folder: Path, fault: Fault
) -> None:
    store = make()
    server.faults[SHARD].extend([Fault(cut_after=50_000), fault])
    assert contents(store, SHARD) == whole(folder)
    assert server.requested(SHARD) == [0, 50_000, 50_000]


def test_small_files_come_as_files_and_as_bytes_with_retries(
    make: MakeStore, server: FaultyServer, folder: Path, tmp_path: Path
) -> None:
    server.faults["manifest.json"].extend([Fault(status=500), Fault(cut_after=5)])
    store = make(timeout_s=STALL_S)
    server.faults["tokenizer.json"].extend([Fault(flip=True), Fault(stall_after=0)])
    for name in ("manifest.json", "tokenizer.json"):
        assert store.read(name) == store.path(name).read_bytes() == whole(folder, name)
        assert store.path(name).is_relative_to(tmp_path / "cache")
        assert store.size(name) == len(whole(folder, name))
    assert len(server.requested("tokenizer.json")) == 3


def test_a_small_file_of_unknown_size_is_checked_too(make: MakeStore, server: FaultyServer, folder: Path) -> None:
    store = make()
    store.expect("tokenizer.json", None, hashlib.sha256(whole(folder, "tokenizer.json")).hexdigest())
    server.faults["tokenizer.json"].extend([Fault(flip=True), Fault(shorten=1), Fault(cut_after=400)])
    assert store.read("tokenizer.json") == whole(folder, "tokenizer.json")
    assert store.size("tokenizer.json") == 1000


@pytest.mark.parametrize("more", [b"", b"more"])
def test_a_part_as_long_as_the_file_or_longer_is_no_dead_end(
    make: MakeStore, folder: Path, tmp_path: Path, more: bytes
) -> None:
    store = make()
    for name, size_bytes in ((SHARD, SHARD_BYTES), ("tokenizer.json", None)):
        store.expect(name, size_bytes, hashlib.sha256(whole(folder, name)).hexdigest())
        (corpus,) = (tmp_path / "cache").glob("*.corpus")
        part = (corpus if size_bytes else corpus / "kept") / f"{name}.{size_bytes or 0}.part"
        part.write_bytes(whole(folder, name) + more)
    assert contents(store, SHARD) == whole(folder)
    assert store.read("tokenizer.json") == whole(folder, "tokenizer.json")


def test_a_manifest_cannot_name_files_elsewhere(make: MakeStore) -> None:
    with pytest.raises(CorpusError, match=r"manifest\.json names a file '\.\./x' outside of its folder"):
        make().expect("../x", 1, "0")


@settings(deadline=None, max_examples=25)
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
def test_any_faults_in_a_row_end_in_the_right_bytes(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, faults: list[Fault], has_ranges: bool
) -> None:
    with serving(folder) as server:
        server.has_ranges = has_ranges
        store = remote_store(server.url, folder, tmp_path_factory.mktemp("cache"), timeout_s=0.1, retries=30)
        server.faults[SHARD].extend(faults)
        assert contents(store, SHARD) == whole(folder)


# Several processes


def test_processes_that_open_one_shard_at_once_fetch_it_once(
    processes: ProcessPoolExecutor, server: FaultyServer, folder: Path, tmp_path: Path
) -> None:
    server.gate.clear()
    opened = [processes.submit(open_one, server.url, folder, tmp_path, SHARD) for _ in range(4)]
    wait_for(lambda: len(server.requested("manifest.json")) == 4 and server.requested(SHARD) == [0])
    server.gate.set()
    results = [future.result() for future in opened]
    assert server.requested(SHARD) == [0]
    assert {sha256 for sha256, _ in results} == {hashlib.sha256(whole(folder)).hexdigest()}
    assert sorted(counts.misses for _, counts in results) == [0, 0, 0, 1]
    assert sum(counts.hits for _, counts in results) == 3


def test_who_waits_for_a_shard_gets_it_while_the_one_that_fetched_it_still_reads(
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
        assert os.pread(file, SHARD_BYTES * 2, 0) == whole(folder)
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
def test_what_a_killed_process_leaves_behind_is_gone_on_from_and_not_believed(
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
    assert contents(store, SHARD) == whole(folder)
    assert server.requested(SHARD) == [0, num_bytes, *([0] if is_damaged else [])]
    assert shards_in(tmp_path / "cache") == [SHARD]


def test_a_pickled_copy_works_in_another_process(
    processes: ProcessPoolExecutor, make: MakeStore, server: FaultyServer, folder: Path
) -> None:
    store = make()
    contents(store, SHARD)
    store.prefetch([SHARD])
    shard, manifest, counts = processes.submit(use_copy, store, SHARD).result()
    assert (shard, manifest) == (whole(folder), whole(folder, "manifest.json"))
    assert (counts.hits, counts.misses) == (1, 0)
    assert server.requested("manifest.json") == [0]
    assert pickle.loads(pickle.dumps(store)).counts.hits == 0


def test_another_manifest_is_another_corpus(server: FaultyServer, folder: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    changed.mkdir()
    (changed / "manifest.json").write_text('{"version": 2, "other": true}')
    (changed / SHARD).write_bytes(whole(folder)[::-1])
    store = remote_store(server.url, folder, tmp_path / "cache")
    assert contents(store, SHARD) == whole(folder)
    server.folder = changed
    other = remote_store(server.url, changed, tmp_path / "cache")
    assert contents(other, SHARD) == whole(folder)[::-1]
    assert contents(store, SHARD) == whole(folder)


# Fetching ahead


def test_shards_are_fetched_ahead_in_the_order_of_need_and_never_more_than_allowed(
    make: MakeStore, server: FaultyServer, folder: Path, tmp_path: Path
) -> None:
    store = make(prefetch_gb=3.5 * SHARD_BYTES / 1e9)
    order = [SHARDS[number] for number in (4, 1, 4, 5, 0, 2, 3)]
    store.prefetch(order)
    wait_for(lambda: shards_in(tmp_path / "cache") == sorted({*order[:4]}))
    time.sleep(0.1)
    assert [name for name, _ in server.requests[1:]] == [SHARDS[4], SHARDS[1], SHARDS[5]]
    for name in order[:4]:
        assert contents(store, name) == whole(folder, name)
    assert (store.counts.hits, store.counts.misses) == (4, 0)
    store.prefetch([SHARDS[5], SHARDS[0]])
    wait_for(lambda: SHARDS[0] in shards_in(tmp_path / "cache"))
    assert server.requested(SHARDS[5]) == [0]


def test_fetching_ahead_returns_at_once_and_is_joined_by_who_needs_the_shard(
    make: MakeStore, server: FaultyServer, folder: Path
) -> None:
    store = make()
    server.gate.clear()
    store.prefetch([SHARD])
    wait_for(lambda: server.requested(SHARD) == [0])
    server.gate.set()
    assert contents(store, SHARD) == whole(folder)
    assert server.requested(SHARD) == [0]


def test_what_is_fetched_ahead_does_not_push_out_what_is_needed_soon(
    make: MakeStore, server: FaultyServer, folder: Path, tmp_path: Path
) -> None:
    store = make(max_gb=4.5 * SHARD_BYTES / 1e9)
    for name in SHARDS[:4]:
        contents(store, name)
    store.prefetch([SHARDS[5], SHARDS[0], SHARDS[4]])
    wait_for(lambda: SHARDS[5] in shards_in(tmp_path / "cache"))
    time.sleep(0.1)
    assert contents(store, SHARDS[0]) == whole(folder)
    assert server.requested(SHARDS[0]) == [0]
    assert server.requested(SHARDS[4]) == []  # more than half of the cache


def test_a_failure_ahead_is_silent_until_the_shard_is_needed(make: MakeStore, server: FaultyServer) -> None:
    store = make(retries=1)
    server.always[SHARD] = Fault(status=500)
    store.prefetch([SHARD, SHARDS[1]])
    wait_for(lambda: server.requested(SHARDS[1]) == [0])
    assert len(server.requested(SHARD)) == 2
    with pytest.raises(UnreadableError, match="answers 500"):
        store.open(SHARD)


def test_nothing_is_fetched_ahead_where_none_is_allowed_or_after_the_end(make: MakeStore, server: FaultyServer) -> None:
    make(prefetch_gb=0.0).prefetch(SHARDS)
    closed = make()
    closed.close()
    closed.prefetch(SHARDS)
    time.sleep(0.05)
    assert {name for name, _ in server.requests} == {"manifest.json"}


def test_a_store_that_is_closed_ends_what_is_on_its_way(make: MakeStore, server: FaultyServer) -> None:
    store = make()
    server.always[SHARD] = Fault(status=503, headers={"Retry-After": "500"})
    store.prefetch([SHARD])
    wait_for(lambda: server.requested(SHARD) == [0])
    thread = store._thread
    store.close()
    assert thread and not thread.is_alive()
    with pytest.raises(CorpusError, match="was closed"):
        store.open(SHARD)


# Commands


def pipe_store(folder: Path, command: str, cache_dir: Path, timeout_s: float = FAST.timeout_s) -> RemoteStore:
    return remote_store(f"pipe:{command}", folder, cache_dir, timeout_s=timeout_s)


def test_a_command_gives_the_files(folder: Path, tmp_path: Path) -> None:
    store = pipe_store(folder, f"cat {folder}/{{}} | cat", tmp_path)
    assert contents(store, SHARD) == whole(folder)
    assert store.read("tokenizer.json") == whole(folder, "tokenizer.json")


def test_curl_as_a_command_reads_a_server(server: FaultyServer, folder: Path, tmp_path: Path) -> None:
    server.faults[SHARD].extend([Fault(status=500), Fault(cut_after=70_000)])
    store = pipe_store(folder, f"curl -s -f {server.url}/{{}}", tmp_path)
    assert contents(store, SHARD) == whole(folder)
    assert store.counts.retries >= 2
    server.always[SHARDS[1]] = Fault(status=404)
    with pytest.raises(UnreadableError, match=r"pipe:curl .*train-000001\.tar ended with status 22, at attempt 4"):
        store.open(SHARDS[1])


@pytest.mark.parametrize(
    ("fails", "what"),
    [
        ("exit 3", "ended with status 3"),
        ("head -c 1000 {}; exit 4", "ended with status 4"),
        ("head -c 1000 {}", "ended after 1000 of 100000 bytes"),
        ("tail -c +2 {}", "ended after 99999 of 100000 bytes"),
        ("cat {} {}", r"ended after \d+ of 100000 bytes"),
        ("tr a b < {}", r"has other bytes than were written \(SHA-256\)"),
        ("sleep 60", r"sent nothing for 0\.2 s"),
        ("head -c 1000 {}; sleep 60", r"sent nothing for 0\.2 s"),
        ("head -c 1000 {}; exec >&-; sleep 60", r"did not end within 0\.2 s of its output"),
    ],
)
def test_a_command_that_fails_or_hangs_is_tried_again_and_then_told(
    folder: Path, tmp_path: Path, fails: str, what: str
) -> None:
    switch = tmp_path / "fails"
    command = f"cd {folder}; echo >> {tmp_path}/runs; if [ -e {switch} ]; then {fails}; else cat {{}}; fi"
    timeout_s = STALL_S if "sleep" in fails else 1.0
    store = pipe_store(folder, command, tmp_path / "cache", timeout_s)
    switch.touch()
    (tmp_path / "runs").unlink()
    with pytest.raises(UnreadableError, match=what):
        store.open(SHARD)
    assert (tmp_path / "runs").read_text().count("\n") == 1 + FAST.retries
    switch.unlink()
    assert contents(store, SHARD) == whole(folder)


@pytest.mark.parametrize("end", ["exit 4", "exec >&-; sleep 60"])
def test_how_a_command_ends_does_not_matter_once_its_bytes_are_checked(folder: Path, tmp_path: Path, end: str) -> None:
    store = pipe_store(folder, f"cat {folder}/{{}}; case {{}} in train*) {end};; esac", tmp_path, STALL_S)
    assert contents(store, SHARD) == whole(folder)
    assert store.counts.retries == 1


def test_a_manifest_of_a_command_that_fails_is_not_believed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"manifest\.json; exit 4 ended with status 4, at attempt 4, the last one"):
        pipe_store(folder, f"cat {folder}/{{}}; exit 4", tmp_path)


def test_a_command_that_hangs_is_ended_with_all_that_it_started(folder: Path, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    command = f"case {{}} in train*) sleep 61 & echo $! >> {pids}; wait;; *) cat {folder}/{{}};; esac"
    store = pipe_store(folder, command, tmp_path / "cache", STALL_S)
    with pytest.raises(UnreadableError, match="sent nothing"):
        store.open(SHARD)
    started = pids.read_text().split()
    assert len(started) == 1 + FAST.retries
    wait_for(lambda: not any(_is_running(int(pid)) for pid in started))


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# fsspec


@pytest.fixture
def bucket(folder: Path) -> Iterator[str]:
    """A folder in fsspec's memory."""
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    for file in folder.iterdir():
        files.pipe(f"/bucket/corpus/{file.name}", file.read_bytes())
    yield "memory://bucket/corpus"
    files.rm("/bucket", recursive=True)


def test_any_file_system_of_fsspec_is_a_store(bucket: str, folder: Path, tmp_path: Path) -> None:
    for url in (bucket, f"local://{folder}/"):
        store = remote_store(url, folder, tmp_path)
        for name in SHARDS:
            assert contents(store, name) == whole(folder, name)
        assert store.read("tokenizer.json") == whole(folder, "tokenizer.json")
        store.expect("val.tar", 1, "0")
        with pytest.raises(UnreadableError, match=r"val\.tar: is not there: check data\.path"):
            store.open("val.tar")
        assert store.counts.retries == 0


def test_a_file_system_that_fails_or_hangs_is_tried_again_and_goes_on(
    bucket: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec.implementations.memory as memory  # type: ignore[import-untyped]

    store = remote_store(bucket, folder, tmp_path, timeout_s=0.5)
    original, starts = memory.MemoryFile.read, []

    def read(file: object, length: int) -> bytes:
        starts.append(file.tell())  # type: ignore[attr-defined]
        match len(starts):
            case 1:
                raise ConnectionError("the backend's own")
            case 3:
                time.sleep(1.5)
                return b"too late"
            case 4:
                raise RuntimeError("the backend's own, too")
        data: bytes = original(file, 40_000)
        return data

    monkeypatch.setattr(memory.MemoryFile, "read", read)
    assert contents(store, SHARD) == whole(folder)
    assert store.counts.retries == 3 and store.counts.downloaded_bytes == SHARD_BYTES + 14
    assert starts == [0, 0, 40_000, 40_000, 40_000, 80_000, 100_000]


# The stream


def test_the_stream_from_a_faulty_server_is_the_local_one_token_for_token(corpus: Path, tmp_path: Path) -> None:
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


def test_a_shard_that_stays_away_ends_the_reading_and_nothing_is_skipped(corpus: Path, tmp_path: Path) -> None:
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
