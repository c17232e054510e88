"""Files on a server: what is written is there completely or not at all, and requests that fail once are repeated."""

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain.trainer.checkpoint.remote import requests
from foretrain.trainer.checkpoint.remote.path import RemotePath
from foretrain.trainer.checkpoint.remote.requests import RemoteError
from foretrain.trainer.checkpoint.remote.streams import PART_BYTES
from tests.trainer.checkpoint.remote.conftest import Bucket
from tests.trainer.checkpoint.remote.faults import Kind, Proxy, nth

CONTENT = bytes(range(256)) * 1000
LARGE = CONTENT * (2 * PART_BYTES // len(CONTENT) + 1)
"""More than one part."""
NUM_AT_ONCE = 8
_numbers = count()


def write(file: RemotePath, content: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(content)


def read(file: RemotePath) -> bytes:
    with file.open("rb") as stream:
        return stream.read()


def test_a_file_is_there_when_it_is_closed_and_has_what_was_written(bucket: Bucket) -> None:
    file = bucket.folder / "run" / "file"
    stream = file.open("wb")
    stream.write(LARGE[:-3])
    assert not file.exists() and not bucket.folder.exists()
    stream.write(LARGE[-3:])
    stream.close()
    assert file.is_file() and not file.is_dir() and file.stat().st_size == len(LARGE)
    assert read(file) == file.read_bytes() == LARGE
    assert file.parent.is_dir() and list(bucket.folder.iterdir()) == [file.parent]
    file.rename(file.with_name("other"))
    assert [path.name for path in file.parent.iterdir()] == ["other"]
    file.parent.remove_tree()
    assert not bucket.folder.exists()


def test_a_missing_file_is_not_found_at_once(bucket: Bucket) -> None:
    for act in (RemotePath.read_bytes, RemotePath.stat, RemotePath.open):
        with pytest.raises(FileNotFoundError):
            act(bucket.folder / "nothing")
    (bucket.folder / "nothing").unlink()


WRITE_FAULTS: tuple[Kind, ...] = ("error", "reset", "stall")
READ_FAULTS: tuple[Kind, ...] = (*WRITE_FAULTS, "truncate")


def written(file: RemotePath, content: bytes) -> bool:
    write(file, content)
    return file.read_bytes() == content


def renamed(file: RemotePath) -> bool:
    other = file.with_name("b")
    file.rename(other)
    return read(other) == CONTENT


ACTS: dict[str, tuple[Callable[[RemotePath], bool], tuple[Kind, ...]]] = {
    "read a part": (lambda file: read(file) == CONTENT, READ_FAULTS),
    "read all": (lambda file: file.read_bytes() == CONTENT, READ_FAULTS),
    "list": (lambda file: list(file.parent.iterdir()) == [file], READ_FAULTS),
    "write": (lambda file: written(file, CONTENT), WRITE_FAULTS),
    "write parts": (lambda file: written(file, LARGE), WRITE_FAULTS),
    "rename": (renamed, WRITE_FAULTS),
}
QUICK = [("read a part", "truncate"), ("write", "error")]
CASES = [(act, kind) for act, (_, kinds) in ACTS.items() for kind in kinds]


@pytest.mark.parametrize(
    ("act", "kind"), [case if case in QUICK else pytest.param(*case, marks=pytest.mark.long) for case in CASES]
)
def test_any_request_may_fail_once(act: str, kind: Kind, bucket: Bucket) -> None:
    """Each request of an act, in a repetition of its own. Some run at a time: they wait for timeouts and retries."""

    def repeat(number: int) -> int:
        file = bucket.folder / f"repetition-{number:03d}" / "a"
        write(file, CONTENT)
        fault = bucket.proxy.fail(kind, nth(number, lambda request: file.parent.name in request.path))
        assert ACTS[act][0](file), f"after request {number} has failed"
        num_met = fault.num_met
        file.parent.remove_tree()
        return num_met

    num_requests = min(requests_of(act, bucket) for _ in range(2))  # a slow machine may repeat one
    assert num_requests >= 1
    with ThreadPoolExecutor(NUM_AT_ONCE) as threads:
        assert [*threads.map(repeat, range(num_requests))] == [1] * num_requests


def requests_of(act: str, bucket: Bucket) -> int:
    """The number of requests of an act without faults."""
    file = bucket.folder / "calm" / "a"
    write(file, CONTENT)
    bucket.proxy.reset()
    assert ACTS[act][0](file)
    num_requests = len(bucket.proxy.requests)
    file.parent.remove_tree()
    return num_requests


@pytest.mark.long
@pytest.mark.parametrize("kind", WRITE_FAULTS)
def test_a_server_that_fails_always_is_an_error_that_names_the_file(
    kind: Kind, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    monkeypatch.setattr(requests, "PATIENCE_S", 0.0)
    bucket.proxy.fail(kind, times=10**9)
    acts = (read, RemotePath.unlink, lambda file: write(file, LARGE))
    if kind != "error":  # the other kinds take seconds for each request, and s3fs repeats it five times
        monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    for act in acts if kind == "error" else acts[:1]:
        with pytest.raises(RemoteError, match=r"s3://bucket/\d+/a: .*: check the server, the network"):
            act(bucket.folder / "a")


@pytest.mark.parametrize("kind", [PermissionError, FileNotFoundError])
def test_a_refusal_names_the_url_and_what_the_server_says(kind: type[OSError]) -> None:
    def refused() -> None:
        raise kind("Access Denied")

    with pytest.raises(kind, match="Access Denied") as found:
        requests.repeated("s3://bucket/run", refused)
    assert found.value.filename == "s3://bucket/run" and found.value.errno
    assert str(found.value.strerror).endswith(": Access Denied")


def test_a_request_without_credentials_is_not_repeated(s3: Proxy) -> None:
    from botocore.exceptions import NoCredentialsError

    asked = []

    def refused() -> None:
        asked.append(1)
        raise NoCredentialsError

    with pytest.raises(RemoteError, match=r"s3://bucket/run: .*Unable to locate credentials"):
        requests.repeated("s3://bucket/run", refused)
    assert len(asked) == 1


def test_a_file_that_the_server_has_in_part_is_an_error(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    file = bucket.folder / "a"
    files, _ = requests.file_system(file.url)  # fsspec keeps it, for all who ask for the same
    info = files.info

    def of_a_shorter_file(*args: Any, **options: Any) -> dict[str, Any]:
        found = info(*args, **options)
        return {**found, "size": found["size"] - 1}

    monkeypatch.setattr(files, "info", of_a_shorter_file)
    with pytest.raises(RemoteError, match="the server has 255,999 bytes, and 256,000 were written"):
        write(file, CONTENT)


def test_only_what_is_read_is_fetched_and_at_most_as_much_ahead(bucket: Bucket) -> None:
    file = bucket.folder / "a"
    write(file, LARGE)
    for first, size in ((0, 1000), (1000, 1000), (10_000_000, 2_000_000), (500, 10)):
        bucket.proxy.reset()
        with file.open("rb", buffering=0) as stream:
            stream.seek(first)
            assert stream.read(size) == LARGE[first : first + size]
        assert bucket.proxy.num_bytes == size
    bucket.proxy.reset()
    with file.open("rb", buffering=0) as stream:
        stream.seek(2**20)
        for number in range(1, 20):
            assert stream.read(2**20) == LARGE[number * 2**20 : (number + 1) * 2**20]
            assert bucket.proxy.num_bytes <= 2 * number * 2**20 + 2**20
    assert len([request for request in bucket.proxy.requests if request.has_range]) <= 5


@given(
    content=st.binary(max_size=300),
    places=st.lists(st.tuples(st.integers(0, 320), st.integers(0, 100)), max_size=8),
)
def test_any_part_of_a_file_is_read_as_it_was_written(content: bytes, places: list[tuple[int, int]]) -> None:
    file = RemotePath(f"memory://reading/{next(_numbers)}")
    write(file, content)
    expected = io.BytesIO(content)
    with file.open("rb") as stream:
        for place, size in places:
            assert stream.seek(place) == expected.seek(place)
            assert stream.read(size) == expected.read(size)
    file.unlink()


@pytest.mark.parametrize("url", ["nothing://bucket/run", "gopher://x"])
def test_a_url_that_no_library_knows_is_refused_with_what_to_change(url: str) -> None:
    with pytest.raises(ValueError, match=f"{url} cannot be used .*s3://BUCKET/NAME"):
        RemotePath(url).exists()


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec.core

    def missing(url: str, **options: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(ValueError, match=r"pip install 'foretrain\[remote\]' \(Install s3fs"):
        RemotePath("s3://bucket/run").exists()
