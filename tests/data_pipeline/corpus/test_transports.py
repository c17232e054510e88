"""Corpora through real commands, and through fsspec."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from foretrain.data_pipeline.corpus.remote.store import RemoteStore
from foretrain.data_pipeline.errors import CorpusError, UnreadableError
from tests.data_pipeline.corpus.http_server import Fault, FaultyServer
from tests.data_pipeline.corpus.served import SHARD, SHARD_BYTES, SHARDS, STALL_S, original_bytes, wait_for
from tests.data_pipeline.corpus.store_workers import (
    FAST,
    contents,
    remote_store,
)
from tests.processes import runs


def pipe_store(folder: Path, command: str, cache_dir: Path, timeout_s: float = FAST.timeout_s) -> RemoteStore:
    return remote_store(f"pipe:{command}", folder, cache_dir, timeout_s=timeout_s)


def test_a_command_delivers_the_files(folder: Path, tmp_path: Path) -> None:
    store = pipe_store(folder, f"cat {folder}/{{}} | cat", tmp_path)
    assert contents(store, SHARD) == original_bytes(folder)
    assert store.read("tokenizer.json") == original_bytes(folder, "tokenizer.json")


def test_curl_as_a_command_reads_a_server(server: FaultyServer, folder: Path, tmp_path: Path) -> None:
    server.faults[SHARD].extend([Fault(status=500), Fault(cut_after=70_000)])
    store = pipe_store(folder, f"curl -s -f {server.url}/{{}}", tmp_path)
    assert contents(store, SHARD) == original_bytes(folder)
    assert store.counts.retries >= 2
    server.always[SHARDS[1]] = Fault(status=404)
    with pytest.raises(UnreadableError, match=r"pipe:curl .*train-000001\.tar ended with status 22, at attempt 4"):
        store.open(SHARDS[1])


@pytest.mark.parametrize(
    ("fails", "what"),
    [
        pytest.param("exit 3", "ended with status 3", marks=pytest.mark.long),
        pytest.param("head -c 1000 {}; exit 4", "ended with status 4", marks=pytest.mark.long),
        pytest.param("head -c 1000 {}", "ended after 1000 of 100000 bytes", marks=pytest.mark.long),
        ("tail -c +2 {}", "ended after 99999 of 100000 bytes"),
        pytest.param("cat {} {}", r"ended after \d+ of 100000 bytes", marks=pytest.mark.long),
        pytest.param("tr a b < {}", r"has other bytes than were written \(SHA-256\)", marks=pytest.mark.long),
        pytest.param("sleep 60", r"sent nothing for 1 s", marks=pytest.mark.long),
        ("head -c 1000 {}; sleep 60", r"sent nothing for 1 s"),
        pytest.param(
            "head -c 1000 {}; exec >&-; sleep 60", r"did not end within 1 s of its output", marks=pytest.mark.long
        ),
    ],
)
def test_a_command_that_fails_or_hangs_is_retried_and_then_reported(
    folder: Path, tmp_path: Path, fails: str, what: str
) -> None:
    switch = tmp_path / "fails"
    command = f"cd {folder}; echo >> {tmp_path}/runs; if [ -e {switch} ]; then {fails}; else cat {{}}; fi"
    timeout_s = STALL_S if "sleep" in fails else 30.0
    store = pipe_store(folder, command, tmp_path / "cache", timeout_s)
    switch.touch()
    (tmp_path / "runs").unlink()
    with pytest.raises(UnreadableError, match=what):
        store.open(SHARD)
    assert store.counts.retries == FAST.retries
    if "sleep" not in fails:  # on a busy machine, a command may be ended before its first line
        assert (tmp_path / "runs").read_text().count("\n") == 1 + FAST.retries
    switch.unlink()
    assert contents(pipe_store(folder, command, tmp_path / "cache", 30.0), SHARD) == original_bytes(folder)


@pytest.mark.parametrize("end", ["exit 4", "exec >&-; sleep 60"])
def test_the_end_of_a_command_does_not_matter_after_its_bytes_are_checked(
    folder: Path, tmp_path: Path, end: str
) -> None:
    store = pipe_store(folder, f"cat {folder}/{{}}; case {{}} in train*) {end};; esac", tmp_path, STALL_S)
    assert contents(store, SHARD) == original_bytes(folder)
    assert store.counts.retries == 1


def test_a_manifest_from_a_command_that_fails_is_rejected(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"manifest\.json; exit 4 ended with status 4, at attempt 4, the last one"):
        pipe_store(folder, f"cat {folder}/{{}}; exit 4", tmp_path)


def test_a_command_that_hangs_is_ended_with_all_its_processes(folder: Path, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    command = f"case {{}} in train*) sleep 61 & echo $! >> {pids}; wait;; *) cat {folder}/{{}};; esac"
    store = pipe_store(folder, command, tmp_path / "cache", STALL_S)
    with pytest.raises(UnreadableError, match="sent nothing"):
        store.open(SHARD)
    started = pids.read_text().split()
    assert len(started) == 1 + FAST.retries
    wait_for(lambda: not any(runs(int(pid)) for pid in started))


@pytest.fixture
def bucket(folder: Path) -> Iterator[str]:
    """A folder in fsspec's memory."""
    import fsspec

    files = fsspec.filesystem("memory")
    for file in folder.iterdir():
        files.pipe(f"/bucket/corpus/{file.name}", file.read_bytes())
    yield "memory://bucket/corpus"
    files.rm("/bucket", recursive=True)


def test_any_file_system_of_fsspec_is_a_store(bucket: str, folder: Path, tmp_path: Path) -> None:
    for url in (bucket, f"local://{folder}/"):
        store = remote_store(url, folder, tmp_path)
        for name in SHARDS:
            assert contents(store, name) == original_bytes(folder, name)
        assert store.read("tokenizer.json") == original_bytes(folder, "tokenizer.json")
        store.expect("val.tar", 1, "0")
        with pytest.raises(UnreadableError, match=r"val\.tar: is not there: check data\.path"):
            store.open("val.tar")
        assert store.counts.retries == 0


def test_a_file_system_that_fails_or_hangs_is_retried_and_resumes(
    bucket: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec.implementations.memory as memory

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
    assert contents(store, SHARD) == original_bytes(folder)
    assert store.counts.retries == 3 and store.counts.downloaded_bytes == SHARD_BYTES + 14
    assert starts == [0, 0, 40_000, 40_000, 40_000, 80_000, 100_000]
