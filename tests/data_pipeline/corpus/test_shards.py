"""The token stream: any range of it, the place of each token, and the errors if it cannot be read."""

import os
import pickle
import resource
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.data_pipeline.corpus import open_files, shards
from foretrain.data_pipeline.corpus.manifest import Manifest
from foretrain.data_pipeline.corpus.open_files import OpenFiles
from foretrain.data_pipeline.corpus.shard_writer import MAX_PART_BYTES, SplitWriter
from foretrain.data_pipeline.corpus.shards import TokenStream, open_corpus
from foretrain.data_pipeline.errors import CorpusError, UnreadableError
from tests.data_pipeline.corpus.alterations import write_manifest

SHARD = "train-000001.tar"
SEGMENT_TOKENS = st.sampled_from([1, 2, 5, 1 << 15])
"""Tokens of a segment. With few, most rows are longer, or span several segments."""


@pytest.fixture
def copy(corpus: Path, tmp_path: Path) -> Path:
    """A corpus that the test may damage."""
    return Path(shutil.copytree(corpus, tmp_path / "corpus"))


@pytest.fixture(scope="module")
def samples(corpus: Path) -> list[dict[str, Any]]:
    """The samples of the train split as plain webdataset reads them."""
    urls = [str(corpus / shard.name) for shard in Manifest.read(corpus).splits["train"].shards]
    return list(wds.WebDataset(urls, shardshuffle=False, empty_check=False).decode())


@pytest.fixture(scope="module")
def all_tokens(samples: list[dict[str, Any]]) -> np.ndarray:
    """All tokens of the train split."""
    return np.concatenate([sample["tokens.npy"] for sample in samples])


def test_the_stream_is_what_plain_webdataset_reads(stream: TokenStream, all_tokens: np.ndarray) -> None:
    assert stream.num_tokens == len(all_tokens)
    tokens = stream.read(0, stream.num_tokens)
    assert tokens.dtype == stream.dtype == np.uint16
    assert np.array_equal(tokens, all_tokens)


@given(data=st.data())
def test_any_range_can_be_read_across_samples_and_shards(
    stream: TokenStream, all_tokens: np.ndarray, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, stream.num_tokens))
    count = data.draw(st.integers(0, stream.num_tokens - start))
    assert np.array_equal(stream.read(start, count), all_tokens[start : start + count])


@settings(max_examples=40)
@given(data=st.data(), segment_tokens=SEGMENT_TOKENS, dtype=st.sampled_from([np.int64, np.uint16, np.int32]))
def test_rows_are_the_ranges_at_their_starts_in_any_order(
    corpus: Path, all_tokens: np.ndarray, data: st.DataObject, segment_tokens: int, dtype: type
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SEGMENT_TOKENS", segment_tokens)
        stream = open_corpus(corpus, "train")
        for _ in range(2):  # the second time, a segment is read in another way
            num_columns = data.draw(st.integers(0, 3000))
            starts = data.draw(st.lists(st.integers(0, stream.num_tokens - num_columns), max_size=40))
            out: np.ndarray = np.full((len(starts), num_columns), 7, dtype=dtype)
            stream.read_rows(np.array(starts, dtype=np.int64), out)
            for row, start in zip(out, starts, strict=True):
                assert np.array_equal(row, all_tokens[start : start + num_columns])


def test_memory_is_mapped_only_after_the_segment_was_read_through_its_descriptor(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SEGMENT_TOKENS", 64)
    stream = open_corpus(corpus, "train")
    offsets: list[int] = []
    preadv = os.preadv

    def record(fd: int, views: Any, offset: int) -> int:
        offsets.append(offset)
        return preadv(fd, views, offset)

    monkeypatch.setattr(os, "preadv", record)
    stream.read_rows(np.array([60, 320]), np.empty((2, 10), dtype=np.int64))
    assert sorted(offsets) == [stream.where(segment * 64).offset_bytes for segment in (0, 1, 5)]


def test_reading_past_the_end_is_an_error(stream: TokenStream) -> None:
    with pytest.raises(AssertionError, match="not within"):
        stream.read(stream.num_tokens - 5, 6)
    for start in (-1, stream.num_tokens - 5):
        with pytest.raises(AssertionError, match="not within"):
            stream.read_rows(np.array([0, start]), np.empty((2, 6), dtype=np.int64))


@given(data=st.data())
def test_where_returns_the_place_of_a_tokens_bytes(
    corpus: Path, stream: TokenStream, samples: list[dict[str, Any]], data: st.DataObject
) -> None:
    position = data.draw(st.integers(0, stream.num_tokens - 1))
    place = stream.where(position)
    stored = (corpus / place.shard).read_bytes()[place.offset_bytes :][:2]
    assert int.from_bytes(stored, "little") == stream.read(position, 1)[0]
    ends = np.cumsum([len(sample["tokens.npy"]) for sample in samples])
    sample = samples[int(np.searchsorted(ends, position, side="right"))]
    assert (place.member, place.shard) == (sample["__key__"], Path(sample["__url__"]).name)
    assert place.offset_bytes >= 640


def test_documents_begin_after_each_end_of_text(stream: TokenStream, all_tokens: np.ndarray) -> None:
    expected = np.concatenate([[0], np.flatnonzero(all_tokens == stream.eot_id)[:-1] + 1])
    found = [stream.document_starts(shard) for shard in range(len(stream.shard_names))]
    assert np.array_equal(np.concatenate(found), expected)
    edges = stream.shard_starts.tolist()
    for starts, first, end in zip(found, edges[:-1], edges[1:], strict=True):
        assert first <= starts.min() <= starts.max() < end


def test_a_document_in_parts_begins_once_in_the_shard_of_its_first_part(tmp_path: Path) -> None:
    part_tokens = MAX_PART_BYTES // 2
    lens = [10, 2 * part_tokens + 5, part_tokens, 7, 3 * part_tokens]
    train = SplitWriter(tmp_path, "train", block_bytes=1000, shard_tokens=part_tokens + 100)
    for count in lens:
        train.add(np.ones(count, dtype="<u2"), num_text_bytes=1)
    stream = open_corpus(write_manifest(tmp_path, {"train": train.close()}), "train")
    found = [stream.document_starts(shard) for shard in range(len(stream.shard_names))]
    assert np.concatenate(found).tolist() == [0, *np.cumsum(lens)[:-1]]
    assert any(len(starts) == 0 for starts in found)  # shards in the middle of a document


def test_a_pickled_stream_reads_the_same_tokens(corpus: Path, all_tokens: np.ndarray) -> None:
    stream = open_corpus(corpus, "train")
    stream.read(0, 10)
    pickled = pickle.dumps(stream)
    assert len(pickled) < 20_000  # neither tokens nor the index
    other = pickle.loads(pickled)
    assert np.array_equal(other.read(0, other.num_tokens), all_tokens)
    rows = np.empty((3, 100), dtype=np.int64)
    other.read_rows(np.array([5, 500, 5000]), rows)
    assert np.array_equal(rows[2], all_tokens[5000:5100])
    assert (other.fingerprint, other.shard_names) == (stream.fingerprint, stream.shard_names)


def test_many_threads_read_through_few_open_files(
    corpus: Path, all_tokens: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = open_corpus(corpus, "train")
    stream.files = OpenFiles(stream.store, stream.shard_names, max_open=1)
    failures: list[int] = []

    def read(seed: int) -> None:
        draw = np.random.default_rng(seed)
        rows = np.empty((8, 50), dtype=np.int64)
        for _ in range(100):
            starts = draw.integers(0, stream.num_tokens - 50, 8)
            stream.read_rows(starts, rows)
            if not np.array_equal(rows, all_tokens[starts[:, None] + np.arange(50)]):
                failures.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(stream.files) == 1


def test_files_are_closed_with_their_stream_and_when_the_limit_is_reached(corpus: Path) -> None:
    def num_open() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = num_open()
    stream = open_corpus(corpus, "train")
    assert num_open() == before + 1  # the index
    stream.files = OpenFiles(stream.store, stream.shard_names, max_open=2)
    stream.read(0, stream.num_tokens)
    assert num_open() == before + 3
    del stream
    assert num_open() == before


def test_rows_of_more_files_than_may_be_open_are_read_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = SplitWriter(tmp_path, "train", block_bytes=1, shard_tokens=1)
    for number in range(60):
        writer.add(np.full(10, number, dtype="<u2"), num_text_bytes=1)
    stream = open_corpus(write_manifest(tmp_path, {"train": writer.close()}), "train")
    stream.files = OpenFiles(stream.store, stream.shard_names, max_open=4)
    monkeypatch.setattr(shards, "MAX_OPEN", 4)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    num_open = len(list(Path("/proc/self/fd").iterdir()))
    rows = np.empty((60, 10), dtype=np.int64)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (num_open + 3 * 4 + 3, limits[1]))
        stream.read_rows(np.arange(60) * 10, rows)
        monkeypatch.setattr(os, "preadv", None)  # from now on only memory maps are read, as if there were few files
        stream.read_rows(np.arange(60) * 10, rows)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert np.array_equal(rows[:, 0], np.arange(60))


def test_streams_close_their_files_when_the_process_cannot_open_more(
    corpus: Path, all_tokens: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = [open_corpus(corpus, "train") for _ in range(2)]
    streams[0].read(0, streams[0].num_tokens)
    assert len(streams[0].files) > 1
    tries = []

    def refuse(name: str) -> int:
        tries.append(name)
        if len(tries) == 1:
            raise OSError(24, "Too many open files")
        return open_corpus(corpus, "train").store.open(name)

    monkeypatch.setattr(streams[1].store, "open", refuse)
    assert np.array_equal(streams[1].read(0, 10), all_tokens[:10])
    assert len(streams[0].files) == 0


def _unreadable(stream: TokenStream, position: int, count: int = 20) -> UnreadableError:
    """Return the error of a read, which is the same for `read` and `read_rows`."""
    with pytest.raises(UnreadableError) as by_rows:
        stream.read_rows(np.array([position]), np.empty((1, count), dtype=np.int64))
    with pytest.raises(UnreadableError) as error:
        stream.read(position, count)
    assert (str(by_rows.value), by_rows.value.shard) == (str(error.value), error.value.shard)
    return error.value


@pytest.mark.parametrize("has_read_before", [False, True])
def test_a_shard_that_is_shortened_during_reading_is_unreadable_from_there_on(
    copy: Path, has_read_before: bool
) -> None:
    stream = open_corpus(copy, "train")
    first = int(stream.shard_starts[1])
    cut = stream.where(first + 50)
    if has_read_before:
        stream.read_rows(np.array([first, first + 100]), np.empty((2, 60), dtype=np.int64))
    os.truncate(copy / SHARD, cut.offset_bytes)
    rows = np.empty((1, 50), dtype=np.int64)
    stream.read_rows(np.array([first]), rows)  # the tokens before the cut can be read
    assert np.array_equal(rows[0], stream.read(first, 50))
    error = _unreadable(stream, first + 45)
    assert f"{SHARD} is damaged at byte {cut.offset_bytes}: the file ends there" in str(error)
    assert (error.shard, error.offset_bytes) == (SHARD, cut.offset_bytes)
    stream.files.close()  # the file is opened again, as after the limit of open files
    assert _unreadable(stream, first + 45).offset_bytes == cut.offset_bytes


def test_a_shard_that_is_gone_is_unreadable(copy: Path) -> None:
    stream = open_corpus(copy, "train")
    (copy / SHARD).unlink()
    error = _unreadable(stream, int(stream.shard_starts[1]))
    assert (error.shard, error.offset_bytes) == (SHARD, 0)
    assert "is missing" in str(error)
    with pytest.raises(UnreadableError):
        stream.document_starts(1)


def test_a_shard_that_the_system_cannot_read_is_unreadable(copy: Path) -> None:
    stream = open_corpus(copy, "train")
    (copy / SHARD).unlink()
    (copy / SHARD).symlink_to("/proc/self/mem")  # opens, and fails to be read where nothing is mapped
    error = _unreadable(stream, int(stream.shard_starts[1]))
    assert "cannot be read (Input/output error)" in str(error)
    assert (error.shard, error.offset_bytes) == (SHARD, stream.where(int(stream.shard_starts[1])).offset_bytes)


@pytest.mark.parametrize("has_read_before", [False, True])
def test_a_token_outside_the_vocabulary_is_unreadable_and_its_place_is_named(copy: Path, has_read_before: bool) -> None:
    stream = open_corpus(copy, "train")
    position = int(stream.shard_starts[1]) + 30
    if has_read_before:
        stream.read_rows(np.array([position]), np.empty((1, 5), dtype=np.int64))
    place = stream.where(position)
    with (copy / SHARD).open("r+b") as file:
        file.seek(place.offset_bytes)
        file.write(stream.vocab_size.to_bytes(2, "little"))
    error = _unreadable(stream, position - 7)
    assert (error.shard, error.offset_bytes) == (SHARD, place.offset_bytes)
    assert f"token {stream.vocab_size} is not among the {stream.vocab_size} of the vocabulary" in str(error)
    assert len(stream.read(position + 1, 20)) == 20


@pytest.mark.parametrize("length", [0, -1, 1, 2**62, 2**63 - 1])
def test_altered_lengths_of_documents_are_unreadable(copy: Path, length: int) -> None:
    stream = open_corpus(copy, "train")
    data = bytearray((copy / SHARD).read_bytes())
    at = data.index(b".doc_lens.npy") // 512 * 512 + 512 + 128
    assert data[at : at + 8] != length.to_bytes(8, "little", signed=True)
    data[at : at + 8] = length.to_bytes(8, "little", signed=True)
    (copy / SHARD).write_bytes(data)
    with pytest.raises(UnreadableError, match="do not add up") as error:
        stream.document_starts(1)
    assert (error.value.shard, error.value.offset_bytes) == (SHARD, at)


def test_lengths_whose_sum_is_right_only_by_overflow_are_unreadable(tmp_path: Path) -> None:
    writer = SplitWriter(tmp_path, "train", block_bytes=1000, shard_tokens=1)
    for _ in range(5):
        writer.add(np.ones(100, dtype="<u2"), num_text_bytes=1)
    stream = open_corpus(write_manifest(tmp_path, {"train": writer.close()}), "train")
    data = bytearray((tmp_path / "train-000000.tar").read_bytes())
    at = data.index(b".doc_lens.npy") // 512 * 512 + 512 + 128
    data[at : at + 32] = np.full(4, 100 + 2**62, dtype="<i8").tobytes()
    (tmp_path / "train-000000.tar").write_bytes(data)
    with pytest.raises(UnreadableError, match="do not add up"):
        stream.document_starts(0)


def test_the_fingerprint_depends_on_the_data(corpus: Path, copy: Path) -> None:
    assert open_corpus(copy, "train").fingerprint == open_corpus(corpus, "train").fingerprint
    assert open_corpus(copy, "val").fingerprint != open_corpus(copy, "train").fingerprint
    write_manifest(copy, Manifest.read(copy).splits, tokenizer_sha256="0" * 64)
    assert open_corpus(copy, "train").fingerprint != open_corpus(corpus, "train").fingerprint


def test_a_missing_or_empty_split_is_refused(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"there is no corpus at .*foretrain prepare"):
        open_corpus(tmp_path / "nowhere", "train")
    with pytest.raises(CorpusError, match="no split 'test': choose one of train, val"):
        open_corpus(copy, "test")
    splits = Manifest.read(copy).splits
    empty = SplitWriter(copy, "val", block_bytes=1, shard_tokens=1).close()
    write_manifest(copy, {**splits, "val": empty})
    with pytest.raises(CorpusError, match=r"the val split of .* is empty"):
        open_corpus(copy, "val")


def test_open_files_take_at_most_a_quarter_of_the_usual_limit_of_descriptors() -> None:
    assert 2 * open_files.MAX_OPEN <= 1024 // 4
