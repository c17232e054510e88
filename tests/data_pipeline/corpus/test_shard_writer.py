"""Shards as written: plain WebDataset reads them, and members close where they should."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds

from foretrain.data_pipeline.corpus.manifest import SplitInfo
from foretrain.data_pipeline.corpus.shard_writer import MAX_PART_BYTES, SplitWriter


def write(folder: Path, documents: list[np.ndarray], *, block_bytes: int, shard_tokens: int) -> SplitInfo:
    writer = SplitWriter(folder, "train", block_bytes=block_bytes, shard_tokens=shard_tokens)
    for document in documents:
        writer.add(document, num_text_bytes=len(document))
    return writer.close()


def read_with_webdataset(folder: Path, split: SplitInfo) -> list[dict[str, Any]]:
    urls = [str(folder / shard.name) for shard in split.shards]
    return list(wds.WebDataset(urls, shardshuffle=False, empty_check=False).decode())


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_plain_webdataset_reads_the_tokens_and_the_lengths_of_the_documents(tmp_path: Path, dtype: str) -> None:
    draw = np.random.default_rng(0)
    documents = [draw.integers(0, 60_000, draw.integers(1, 900)).astype(dtype) for _ in range(50)]
    split = write(tmp_path, documents, block_bytes=2000, shard_tokens=5000)
    assert len(split.shards) > 2
    samples = read_with_webdataset(tmp_path, split)
    assert len({sample["__key__"] for sample in samples}) == len(samples)
    assert all(sample["tokens.npy"].dtype == np.dtype(dtype) for sample in samples)
    assert all(sample["doc_lens.npy"].sum() == len(sample["tokens.npy"]) for sample in samples)
    lengths = np.concatenate([sample["doc_lens.npy"] for sample in samples])
    assert lengths.tolist() == [len(document) for document in documents]
    tokens = np.concatenate([sample["tokens.npy"] for sample in samples])
    assert np.array_equal(tokens, np.concatenate(documents))


def test_the_split_info_agrees_with_the_shards(tmp_path: Path) -> None:
    documents = [np.arange(300, dtype="<u2")] * 40
    split = write(tmp_path, documents, block_bytes=1000, shard_tokens=2000)
    assert (split.num_tokens, split.num_documents, split.num_bytes) == (12_000, 40, 12_000)
    assert sum(shard.num_tokens for shard in split.shards) == 12_000
    assert sum(shard.num_documents for shard in split.shards) == 40
    assert sum(shard.num_members for shard in split.shards) == len(read_with_webdataset(tmp_path, split))
    assert [shard.size_bytes for shard in split.shards] == [
        (tmp_path / shard.name).stat().st_size for shard in split.shards
    ]


def test_a_sample_ends_at_the_first_document_end_past_block_bytes_and_a_shard_at_the_first_sample_end(
    tmp_path: Path,
) -> None:
    documents = [np.zeros(100, dtype="<u2")] * 10
    split = write(tmp_path, documents, block_bytes=500, shard_tokens=301)  # 250 tokens: the third document's end
    assert [shard.num_tokens for shard in split.shards] == [600, 400]
    lengths = [sample["doc_lens.npy"].tolist() for sample in read_with_webdataset(tmp_path, split)]
    assert lengths == [[100] * 3, [100] * 3, [100] * 3, [100]]


def test_a_document_longer_than_a_part_is_split_over_samples_and_counted_where_it_ends(tmp_path: Path) -> None:
    part_tokens = MAX_PART_BYTES // 2
    documents = [np.zeros(10, dtype="<u2"), np.arange(2 * part_tokens + 5, dtype="<u4").astype("<u2")]
    split = write(tmp_path, documents, block_bytes=1000, shard_tokens=1)
    lengths = [sample["doc_lens.npy"].tolist() for sample in read_with_webdataset(tmp_path, split)]
    assert lengths == [[10, part_tokens], [part_tokens], [5]]
    assert [shard.num_documents for shard in split.shards] == [1, 0, 1]


def test_a_shard_depends_on_neither_the_machine_nor_the_time(tmp_path: Path) -> None:
    write(tmp_path, [np.zeros(10, dtype="<u2")], block_bytes=1, shard_tokens=1)
    header = (tmp_path / "train-000000.tar").read_bytes()[:512]
    assert header[:28] == b"train-000000000.tokens.npy\0\0"
    assert (header[108:115], header[116:123], header[136:147]) == (b"0000000", b"0000000", b"00000000000")
    assert header[257:263] == b"ustar\0"
    assert header[265:329] == bytes(64)  # names of user and group
