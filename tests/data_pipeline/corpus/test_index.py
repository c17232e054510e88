"""The index beside the shards, the check of all files at open, and `verify`."""

import io
import json
import multiprocessing
import os
import shutil
import tarfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.data_pipeline.corpus import check, shards
from foretrain.data_pipeline.corpus.index import Index, IndexRows
from foretrain.data_pipeline.corpus.manifest import Manifest, checked_name, index_name, is_part_of_corpus
from foretrain.data_pipeline.corpus.shard_writer import SplitWriter
from foretrain.data_pipeline.corpus.shards import open_corpus
from foretrain.data_pipeline.corpus.store import FolderStore
from foretrain.data_pipeline.corpus.structure import check_structure
from foretrain.data_pipeline.corpus.verify import verify
from foretrain.data_pipeline.errors import CorpusError
from tests.data_pipeline.corpus.alterations import write_manifest

SHARD = "train-000001.tar"


@pytest.fixture
def copy(corpus: Path, tmp_path: Path) -> Path:
    """A corpus that the test may damage."""
    return Path(shutil.copytree(corpus, tmp_path / "corpus", ignore=shutil.ignore_patterns(".*")))


@pytest.fixture
def settled(copy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A corpus that the test may damage, whose files count as old."""
    monkeypatch.setattr(check, "MIN_AGE_S", 0.0)
    time.sleep(0.02)  # longer than a tick of the clock of files
    return copy


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the shards whose structure is checked, in order."""
    names: list[str] = []

    def record(fd: int, path: str, *where: Any) -> None:
        names.append(Path(path).name)
        check_structure(fd, path, *where)

    monkeypatch.setattr(check, "check_structure", record)
    return names


@settings(max_examples=40)
@given(
    lens=st.lists(st.integers(1, 400), min_size=1, max_size=40),
    block_bytes=st.integers(1, 1000),
    shard_tokens=st.integers(1, 2000),
)
def test_the_index_is_what_tarfile_and_numpy_find_in_the_shards(
    tmp_path_factory: pytest.TempPathFactory, lens: list[int], block_bytes: int, shard_tokens: int
) -> None:
    folder = tmp_path_factory.mktemp("index")
    writer = SplitWriter(folder, "train", block_bytes=block_bytes, shard_tokens=shard_tokens)
    for count in lens:
        writer.add(np.zeros(count, dtype="<u2"), num_text_bytes=1)
    split = writer.close()
    index = Index.open(folder / index_name("train"), split)
    members: list[tuple[int, int, int, int]] = []
    first_members = [0]
    for shard in split.shards:
        with tarfile.open(folder / shard.name) as tar:
            arrays = [(each.offset_data + each.size, np.load(io.BytesIO(tar.extractfile(each).read()))) for each in tar]  # type: ignore[union-attr]
        for (tokens_end, tokens), (lens_end, lengths) in zip(arrays[::2], arrays[1::2], strict=True):
            members.append((tokens_end - tokens.nbytes, len(tokens), lens_end - lengths.nbytes, len(lengths)))
        first_members.append(len(members))
    found = (index.tokens_at, np.diff(index.start), index.lens_at, index.num_lens)
    assert np.array_equal(np.stack(found, axis=1), members)
    assert np.array_equal(index.first_members, first_members)
    assert np.array_equal(index.shard_starts, np.cumsum([0] + [shard.num_tokens for shard in split.shards]))
    assert (index.num_documents.sum(), index.start[-1]) == (len(lens), sum(lens))


@settings(max_examples=40)
@given(rows=st.lists(st.tuples(*[st.integers(0, 2**62)] * 5), max_size=5))
def test_index_rows_resume_from_saved_rows(rows: list[tuple[int, ...]]) -> None:
    fields = ("num_tokens", "tokens_at", "lens_at", "num_lens", "num_documents")
    full, saved = IndexRows(), IndexRows()
    for row in rows:
        full.add(**dict(zip(fields, row, strict=True)))
        saved = IndexRows(saved.to_array())
        saved.add(**dict(zip(fields, row, strict=True)))
    assert saved.to_array().tolist() == full.to_array().tolist() == [list(row) for row in rows]


def test_an_index_is_mapped_and_not_copied_into_memory(corpus: Path) -> None:
    index = Index.open(corpus / index_name("train"), Manifest.read(corpus).splits["train"])
    for column in (index.start, index.tokens_at, index.lens_at, index.num_lens, index.num_documents):
        base: Any = column
        while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
            base = base.base
        assert isinstance(base, np.memmap)


@pytest.mark.parametrize("shape", ["(5, -4)", f"(5, {10**30})", "(5, 4)"])
def test_an_index_that_says_another_shape_is_refused(shape: str, corpus: Path, tmp_path: Path) -> None:
    split = Manifest.read(corpus).splits["train"]
    content = (corpus / index_name("train")).read_bytes()
    fields = b"{'descr': '<i8', 'fortran_order': False, 'shape': %b, }" % shape.encode()
    (tmp_path / "index.npy").write_bytes(content[:10] + fields.ljust(117) + b"\n" + content[128:])
    with pytest.raises(CorpusError, match=r"index\.npy (cannot be read|holds int64 of shape \(5, 4\))"):
        Index.open(tmp_path / "index.npy", split)


def test_an_index_whose_header_claims_gigabytes_takes_no_memory(corpus: Path, tmp_path: Path) -> None:
    split = Manifest.read(corpus).splits["train"]
    content = (corpus / index_name("train")).read_bytes()
    (tmp_path / "index.npy").write_bytes(b"\x93NUMPY\x02\x00" + (2**31 - 1).to_bytes(4, "little") + content[10:])
    tracemalloc.start()
    try:
        with pytest.raises(CorpusError, match=r"index\.npy cannot be read \(its first bytes are not those"):
            Index.open(tmp_path / "index.npy", split)
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


def test_a_shard_is_checked_once_as_long_as_it_is_the_same_file(settled: Path, checked: list[str]) -> None:
    names = sorted(shard.name for shard in Manifest.read(settled).splits["train"].shards)
    open_corpus(settled, "train")
    assert sorted(checked) == names
    assert not list(settled.glob("..*"))
    open_corpus(settled, "train")
    assert sorted(checked) == names
    (settled / SHARD).write_bytes((settled / SHARD).read_bytes())
    open_corpus(settled, "train")
    assert sorted(checked) == sorted([*names, SHARD])
    open_corpus(settled, "val")  # has its own record
    open_corpus(settled, "train")
    assert len(checked) == len(names) + 2


def _flip_header(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)


def test_a_file_altered_without_a_new_modification_time_is_checked_again(settled: Path, tmp_path: Path) -> None:
    open_corpus(settled, "train")
    before = (settled / SHARD).stat()
    _flip_header(settled / SHARD)
    os.utime(settled / SHARD, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (settled / SHARD).stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(CorpusError, match=f"{SHARD} is damaged at byte 0"):
        open_corpus(settled, "train")


def test_the_record_of_checked_files_does_not_apply_to_a_copy(settled: Path, tmp_path: Path) -> None:
    open_corpus(settled, "train")
    other = Path(shutil.copytree(settled, tmp_path / "other"))
    assert (other / checked_name("train")).exists()
    before = (other / SHARD).stat()
    _flip_header(other / SHARD)
    os.utime(other / SHARD, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(CorpusError, match=SHARD):
        open_corpus(other, "train")


def test_files_checked_before_a_fault_are_not_checked_again(settled: Path, checked: list[str]) -> None:
    last = Manifest.read(settled).splits["train"].shards[-1].name
    sound = (settled / last).read_bytes()
    _flip_header(settled / last)
    with pytest.raises(CorpusError, match=last):
        open_corpus(settled, "train")
    (settled / last).write_bytes(sound)
    checked.clear()
    open_corpus(settled, "train")
    assert checked == [last]


def test_a_file_that_has_just_changed_is_not_recorded(copy: Path, checked: list[str]) -> None:
    open_corpus(copy, "train")
    open_corpus(copy, "train")
    assert len(checked) == 2 * len(Manifest.read(copy).splits["train"].shards)
    assert not (copy / checked_name("train")).exists()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "5", "null", '{"files": {}}', '{"files": 5, "index_sha256": 5}', "[" * 100_000, "\xff"]
)
def test_a_damaged_record_is_ignored(settled: Path, checked: list[str], text: str) -> None:
    num_shards = len(Manifest.read(settled).splits["train"].shards)
    (settled / checked_name("train")).write_text(text, encoding="latin-1")
    open_corpus(settled, "train")
    assert len(checked) == num_shards
    open_corpus(settled, "train")
    assert len(checked) == num_shards


def test_a_record_of_another_index_is_ignored(settled: Path, checked: list[str]) -> None:
    open_corpus(settled, "train")
    record = settled / checked_name("train")
    record.write_text(json.dumps({**json.loads(record.read_text()), "index_sha256": "0" * 64}))
    checked.clear()
    open_corpus(settled, "train")
    assert checked


def test_a_corpus_opens_even_if_no_record_can_be_written(settled: Path, checked: list[str]) -> None:
    (settled / checked_name("train")).mkdir()  # so that no file can take that name
    for _ in range(2):
        open_corpus(settled, "train")
    assert len(checked) == 2 * len(Manifest.read(settled).splits["train"].shards)
    assert not list(settled.glob("..*"))


def _open_often(folder: Path, results: "multiprocessing.Queue[int]") -> None:
    check.MIN_AGE_S = 0.0
    for _ in range(5):
        (folder / checked_name("train")).unlink(missing_ok=True)
        results.put(open_corpus(folder, "train").num_tokens)


def test_several_processes_may_open_a_corpus_at_once(settled: Path) -> None:
    context = multiprocessing.get_context("fork")
    results: multiprocessing.Queue[int] = context.Queue()
    processes = [context.Process(target=_open_often, args=(settled, results)) for _ in range(4)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in range(20)]
    for process in processes:
        process.join()
    assert set(found) == {Manifest.read(settled).splits["train"].num_tokens}
    assert not list(settled.glob("..*"))
    assert all(is_part_of_corpus(file.name) for file in settled.iterdir())


def test_a_remote_corpus_is_opened_with_only_manifest_and_index(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Remote(FolderStore):
        is_local = False

        def path(self, name: str) -> Path:
            asked.append(name)
            return super().path(name)

    monkeypatch.setattr(shards, "open_store", lambda path, cache: Remote(path))
    stream = open_corpus(str(corpus), "train")
    assert asked == ["manifest.json", index_name("train")]
    here = open_corpus(str(corpus), "train")
    assert np.array_equal(stream.read(0, stream.num_tokens), here.read(0, stream.num_tokens))


def _swap(one: Path, other: Path) -> None:
    one_bytes, other_bytes = one.read_bytes(), other.read_bytes()
    one.write_bytes(other_bytes)
    other.write_bytes(one_bytes)


def _mkdir(path: Path) -> Path:
    path.mkdir()
    return path


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a missing shard": (lambda folder: (folder / SHARD).unlink(), f"{SHARD} is missing"),
    "a folder for a shard": (
        lambda folder: (folder / SHARD).rename(folder / "moved") and _mkdir(folder / SHARD),
        SHARD,
    ),
    "a shard that grew": (
        lambda folder: (folder / SHARD).write_bytes((folder / SHARD).read_bytes() + bytes(512)),
        rf"{SHARD} has \d+ bytes, but \d+ were written",
    ),
    "a shard that shrank": (
        lambda folder: (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:-512]),
        rf"{SHARD} has \d+ bytes, but \d+ were written",
    ),
    "swapped shards": (lambda folder: _swap(folder / "train-000000.tar", folder / SHARD), r"train-00000[01]\.tar"),
    "a missing index": (lambda folder: (folder / index_name("train")).unlink(), r"train\.index\.npy is missing"),
    "swapped indices": (
        lambda folder: _swap(folder / index_name("train"), folder / index_name("val")),
        r"train\.index\.npy has other bytes",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_any_file_is_found_at_open_and_by_verify(copy: Path, fault: str) -> None:
    change, message = FAULTS[fault]
    change(copy)
    with pytest.raises(CorpusError, match=message):
        open_corpus(copy, "train")
    with pytest.raises(CorpusError, match=message):
        verify(copy)


def test_swapped_shards_of_equal_size_are_found_at_open(tmp_path: Path) -> None:
    writer = SplitWriter(tmp_path, "train", block_bytes=100, shard_tokens=100)
    for _ in range(2):
        writer.add(np.ones(100, dtype="<u2"), num_text_bytes=1)
    write_manifest(tmp_path, {"train": writer.close()})
    open_corpus(tmp_path, "train")
    _swap(tmp_path / "train-000000.tar", tmp_path / SHARD)
    with pytest.raises(CorpusError, match=r"train-000000.tar is damaged at byte 0: .* this is another shard"):
        open_corpus(tmp_path, "train")
