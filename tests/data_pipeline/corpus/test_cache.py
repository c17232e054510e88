"""The cache on disk: what it keeps, what it evicts, and what it checks."""

import fcntl
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.data_pipeline.corpus.remote.cache import Cache, CachedFile
from foretrain.data_pipeline.errors import CorpusError


@pytest.fixture(scope="module", autouse=True)
def no_fsync() -> Iterator[None]:
    """Skip fsync: power cuts are not tested here, and it would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


def content(number: int, size_bytes: int) -> bytes:
    return hashlib.shake_128(f"{number}".encode()).digest(size_bytes)


def wanted(number: int, size_bytes: int = 100, *, is_pinned: bool = False) -> CachedFile:
    sha256 = hashlib.sha256(content(number, size_bytes)).hexdigest()
    return CachedFile(f"{'index' if is_pinned else 'shard'}-{number}", size_bytes, sha256, is_pinned)


def writes(number: int, size_bytes: int = 100) -> Callable[[BinaryIO], None]:
    def fetch(file: BinaryIO) -> None:
        file.seek(0)
        file.write(content(number, size_bytes))

    return fetch


def never(file: BinaryIO) -> None:
    raise AssertionError("fetched a file that was in the cache")


def get(cache: Cache, number: int, size_bytes: int = 100, *, is_pinned: bool = False) -> int:
    """A file descriptor; the caller closes it."""
    opened = cache.open_or_fetch(wanted(number, size_bytes, is_pinned=is_pinned), writes(number, size_bytes))
    assert opened is not None
    return opened[0]


def put(cache: Cache, number: int, size_bytes: int = 100) -> None:
    os.close(get(cache, number, size_bytes))


def kept_files(cache: Cache) -> set[str]:
    return {file.name for file in cache.folder.rglob("*") if file.is_file()}


def used_bytes(root: Path) -> int:
    return sum(file.stat().st_size for file in root.glob("*.corpus/**/*") if file.is_file())


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=8),
    limit=st.integers(400, 1500),
    steps=st.lists(st.tuples(st.integers(0, 7), st.sampled_from(["hold", "drop", "ahead", "keep"])), max_size=40),
)
def test_the_limit_holds_and_contents_are_right_for_any_sequence_of_accesses(
    sizes: list[int], limit: int, steps: list[tuple[int, str]]
) -> None:
    held: list[tuple[int, int]] = []
    with tempfile.TemporaryDirectory() as root:
        cache = Cache(Path(root), "http://x/corpus", "0" * 64, limit)
        for number, how in steps:
            number %= len(sizes)
            fetch = writes(number, sizes[number])
            opened = cache.open_or_fetch(wanted(number, sizes[number]), fetch, is_prefetch=how == "ahead")
            assert used_bytes(Path(root)) <= limit
            if opened is None:
                assert how == "ahead"
                continue
            held.append((number, opened[0]))
            if how != "hold":
                os.close(held.pop()[1])
        for number, file in held:
            assert os.pread(file, 1000, 0) == content(number, sizes[number])
            os.close(file)


@settings(deadline=None, max_examples=20)
@given(accesses=st.lists(st.integers(0, 6), max_size=40), room=st.integers(1, 5))
def test_the_least_recently_used_file_is_evicted(accesses: list[int], room: int) -> None:
    with tempfile.TemporaryDirectory() as root:
        cache = Cache(Path(root), "http://x/corpus", "0" * 64, room * 100 + 50)
        recent: list[int] = []
        for number in accesses:
            put(cache, number)
            recent = [*(other for other in recent if other != number), number][-room:]
            assert kept_files(cache) == {f"shard-{other}" for other in recent}


def test_an_open_shard_is_evicted_only_after_all_others(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "u", "0" * 64, 300)
    oldest = get(cache, 0)
    put(cache, 1)
    put(cache, 2)
    put(cache, 3)
    assert kept_files(cache) == {"shard-0", "shard-2", "shard-3"}
    others = [get(cache, number) for number in (2, 3, 4)]
    assert kept_files(cache) == {"shard-2", "shard-3", "shard-4"}
    assert os.pread(oldest, 1000, 0) == content(0, 100)  # still readable for those that have it open
    for file in (oldest, *others):
        os.close(file)


def test_prefetching_evicts_no_open_file(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "u", "0" * 64, 250)
    files = [get(cache, 0), get(cache, 1)]
    assert cache.open_or_fetch(wanted(2), never, is_prefetch=True) is None
    assert cache.open_or_fetch(wanted(3, 1000), never, is_prefetch=True) is None
    assert kept_files(cache) == {"shard-0", "shard-1"}
    os.close(files[0])
    assert cache.open_or_fetch(wanted(2), writes(2), is_prefetch=True) is not None
    assert kept_files(cache) == {"shard-1", "shard-2"}


def test_a_small_file_is_evicted_only_after_it_is_closed(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "u", "0" * 64, 250)
    index = get(cache, 0, is_pinned=True)
    for number in range(1, 6):
        put(cache, number)
    assert kept_files(cache) == {"index-0", "shard-5"}
    with pytest.raises(CorpusError, match=r"does not fit .* small files in use take .*: raise data\.cache\.max_gb"):
        put(cache, 7, 200)
    os.close(index)
    put(cache, 7, 200)
    assert kept_files(cache) == {"shard-7"}


def test_a_file_larger_than_the_cache_is_refused_and_evicts_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "u", "0" * 64, 10**9)
    put(cache, 0)
    with pytest.raises(CorpusError, match=r"a file of 1\.5 GB does not fit into .* limit is 1 GB: raise data\.cache"):
        cache.open_or_fetch(CachedFile("shard-1", 15 * 10**8, "0"), never)
    assert kept_files(cache) == {"shard-0"}


def test_corpora_do_not_mix_but_share_the_limit(tmp_path: Path) -> None:
    caches = [Cache(tmp_path, url, sha, 250) for url, sha in (("u", "0"), ("u", "1"), ("v", "0"))]
    assert len({cache.folder for cache in caches}) == 3
    for cache in caches:
        put(cache, 0)
    assert [kept_files(cache) for cache in caches] == [set(), {"shard-0"}, {"shard-0"}]


def test_other_files_in_the_cache_folder_are_never_touched(tmp_path: Path) -> None:
    strangers = [tmp_path / "thesis.txt", tmp_path / "corpus" / "train-000000.tar", tmp_path / "a.corpus" / "x"]
    for stranger in strangers:
        stranger.parent.mkdir(exist_ok=True)
        stranger.write_bytes(b"x" * 1000)
    cache = Cache(tmp_path, "u", "0" * 64, 100)
    put(cache, 0)
    put(cache, 1)
    assert kept_files(cache) == {"shard-1"}
    assert all(stranger.stat().st_size == 1000 for stranger in strangers)


@pytest.mark.parametrize("damage", [0, 1, 99])
def test_a_file_cut_short_on_disk_is_fetched_again(tmp_path: Path, damage: int) -> None:
    cache = Cache(tmp_path, "u", "0" * 64, 1000)
    put(cache, 0)
    os.truncate(cache.folder / "shard-0", damage)
    file = get(cache, 0)
    assert os.pread(file, 1000, 0) == content(0, 100)
    os.close(file)


def test_a_file_of_unknown_size_is_checked_by_its_content(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "u", "0" * 64, 1000)
    unsized = CachedFile("index-0", None, wanted(0).sha256, is_pinned=True)
    for _ in range(2):
        opened = cache.open_or_fetch(unsized, writes(0))
        assert opened is not None and opened[1] and os.read(opened[0], 1000) == content(0, 100)
        os.close(opened[0])
        assert cache.open_or_fetch(unsized, never) is not None
        cache.path(unsized).write_bytes(b"other")


def test_a_failed_fetch_leaves_a_part_from_which_the_next_one_resumes(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "u", "0" * 64, 1000)

    def fails(file: BinaryIO) -> None:
        file.write(content(0, 100)[:30])
        raise RuntimeError

    def proceeds(file: BinaryIO) -> None:
        assert file.read() == content(0, 100)[:30]
        file.write(content(0, 100)[30:])

    with pytest.raises(RuntimeError):
        cache.open_or_fetch(wanted(0), fails)
    assert cache.open(wanted(0)) is None
    opened = cache.open_or_fetch(wanted(0), proceeds)
    assert opened is not None and os.pread(opened[0], 1000, 0) == content(0, 100)
    assert kept_files(cache) == {"shard-0"}


def test_a_part_counts_with_its_full_size_and_is_evicted_after_its_writer_is_gone(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "u", "0" * 64, 300)

    def watched(file: BinaryIO) -> None:
        put(cache, 1)
        put(cache, 2)
        assert kept_files(cache) == {"shard-0.200.part", "shard-2"}
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cache.open_or_fetch(wanted(0, 200), watched)
    put(cache, 3, 150)
    assert kept_files(cache) == {"shard-2", "shard-3"}


def test_threads_that_need_the_same_file_fetch_it_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "u", "0" * 64, 1000)
    fetched, started, released = [], threading.Event(), threading.Event()

    def slow(file: BinaryIO) -> None:
        fetched.append(1)
        started.set()
        released.wait()
        writes(0)(file)

    def use() -> None:
        opened = cache.open_or_fetch(wanted(0), slow)
        assert opened is not None
        results.append(os.pread(opened[0], 1000, 0))
        os.close(opened[0])

    results: list[bytes] = []
    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    started.wait()
    assert cache.open_or_fetch(wanted(0), never, is_prefetch=True) is None  # nothing ahead waits for another
    released.set()
    for thread in threads:
        thread.join()
    assert len(fetched) == 1 and results == [content(0, 100)] * 6


def test_a_fetch_waits_while_other_downloads_take_all_the_room(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "u", "0" * 64, 150)
    inside, released = threading.Event(), threading.Event()

    def slow(file: BinaryIO) -> None:
        inside.set()
        released.wait()
        writes(0)(file)

    first = threading.Thread(target=lambda: cache.open_or_fetch(wanted(0), slow))
    second = threading.Thread(target=lambda: put(cache, 1))
    first.start()
    inside.wait()
    second.start()
    second.join(timeout=0.2)
    assert second.is_alive() and kept_files(cache) == {"shard-0.100.part"}
    released.set()
    first.join()
    second.join()
    assert kept_files(cache) == {"shard-1"}


def test_a_folder_that_cannot_hold_a_cache_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CorpusError, match=r"cannot be used as a cache .*: set data\.cache\.dir"):
        Cache(tmp_path / "file", "u", "0" * 64, 100)

    def no_locks(file: object, how: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(CorpusError, match="Function not implemented"):
        Cache(tmp_path / "cache", "u", "0" * 64, 100)


def test_a_full_disk_says_what_to_change_and_frees_what_was_written(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "u", "0" * 64, 1000)

    def full(file: BinaryIO) -> None:
        file.write(b"x" * 50)
        raise OSError(28, "No space left on device")

    with pytest.raises(CorpusError, match=r"No space left on device\): make room on its disk, lower data\.cache"):
        cache.open_or_fetch(wanted(0), full)
    assert kept_files(cache) == set()


def test_a_disk_that_fails_is_no_reason_to_make_room(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "u", "0" * 64, 1000)

    def fails(file: BinaryIO) -> None:
        raise OSError(5, "Input/output error")

    with pytest.raises(CorpusError, match=r"Input/output error\): the file system or the network has failed"):
        cache.open_or_fetch(wanted(0), fails)


def test_an_error_without_a_file_names_the_one_that_was_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path, "u", "0" * 64, 1000)

    def no_lock(file: object, how: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", no_lock)
    with pytest.raises(OSError, match=r"Input/output error: '.*/shard-0'"):
        get(cache, 0)


def test_a_rename_whose_answer_is_lost_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, rename = Cache(tmp_path, "u", "0" * 64, 1000), Path.rename

    def lose_answer(path: Path, target: Path) -> None:
        rename(path, target)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "rename", lose_answer)
    put(cache, 0)
    assert kept_files(cache) == {"shard-0"}
