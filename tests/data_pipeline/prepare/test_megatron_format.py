"""Data sets of Megatron: documents as its own reader gives them, and an error for a wrong index."""

import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.build import prepare
from foretrain.data_pipeline.prepare.tokenizer import train_tokenizer
from tests.data_pipeline.prepare.reading import read, read_tokens
from tests.data_pipeline.samples import SMALL


def write_megatron(prefix: Path, documents: list[list[list[int]]], dtype: Any) -> Path:
    """Write documents of several sequences with Megatron's own writer, and return its file of tokens."""
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    for sequences in documents:
        for sequence in sequences:
            builder.add_item(torch.tensor(sequence, dtype=torch.int64))
        builder.end_document()
    builder.finalize(f"{prefix}.idx")
    return prefix.with_suffix(".bin")


megatron_documents = st.lists(st.lists(st.lists(st.integers(1, 255), min_size=1, max_size=5), max_size=3), max_size=5)


@settings(max_examples=10)
@given(
    megatron_documents.filter(any), st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.int64]), st.booleans()
)
def test_documents_of_megatron_are_those_that_megatron_reads(
    folder: Path, documents: list[list[list[int]]], dtype: Any, ends_with_eod: bool
) -> None:
    from megatron.core.datasets.indexed_dataset import IndexedDataset  # it takes a second

    if ends_with_eod:
        documents = [[*sequences, [0]] for sequences in documents]
    file = write_megatron(folder / "a_text_document", documents, dtype)
    theirs = IndexedDataset(str(file.with_suffix("")))
    edges = theirs.document_indices.tolist()
    of_megatron = [
        [token for number in range(first, end) for token in theirs[number].tolist()] for first, end in pairwise(edges)
    ]
    expected = [tokens[:-1] if ends_with_eod else tokens for tokens in of_megatron]
    assert read_tokens(file) == read_tokens(file.with_suffix(".idx")) == [tokens for tokens in expected if tokens]


def index_of(lengths: list[int], starts: list[int], documents: list[int], code: int = 8, **header: Any) -> bytes:
    """The bytes of an index, whose header may claim other numbers."""
    head = {
        "magic": b"MMIDIDX\0\0",
        "version": 1,
        "num_sequences": len(lengths),
        "num_documents": len(documents),
    } | header
    return struct.pack(
        f"<9sQBQQ{len(lengths)}i{len(starts)}q{len(documents)}q",
        *(b"MMIDIDX\0\0", head["version"], code, head["num_sequences"], head["num_documents"]),
        *lengths,
        *starts,
        *documents,
    )


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (b"TNTIDX\0\0" * 9, "is not the index of a Megatron data set"),
        (index_of([2], [0], [0, 1], version=2), "has version 2 and tokens of type uint16"),
        (index_of([2], [0], [0, 1], code=7), "has version 1 and tokens of type float32"),
        (index_of([2], [0], [0, 1], code=99), "tokens of type code 99"),
        (index_of([2], [0], [0, 1], num_sequences=2**40), "its 1,099,511,627,776 sequences .* it has 62"),
        (index_of([2], [0], [0, 1], num_documents=2**63), "it has 62"),
        (index_of([2], [0], [0, 1]) + b"\0", "sequences of several kinds"),
        (index_of([5], [0], [0, 1]), "sequence 0 has 5 tokens at byte 0 of 8"),
        (index_of([-1], [0], [0, 1]), "sequence 0 has -1 tokens"),
        (index_of([2], [-2], [0, 1]), "sequence 0 has 2 tokens at byte -2 of 8"),
        (index_of([1], [2**62], [0, 1]), "sequence 0 has 1 tokens at byte"),
        (index_of([3, 3], [0, 0], [0, 1, 2]), "its sequences have 12 bytes, and .bin has 8"),
        (index_of([1, 1], [0, 2], [0, 3, 2]), "its documents are not all of its 2 sequences, in order"),
        (index_of([1, 1], [0, 2], [0, 1]), "its documents are not all"),
        (index_of([], [], []), "its documents are not all"),
    ],
)
def test_a_wrong_index_of_megatron_is_refused_by_name(tmp_path: Path, index: bytes, message: str) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(8))
    (tmp_path / "a.idx").write_bytes(index)
    with pytest.raises(CorpusError, match=rf"a\.idx .*{message}"):
        read_tokens(tmp_path / "a.bin")


def test_half_a_data_set_of_megatron_is_refused_if_it_is_named_and_else_left_out(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"weights")
    (tmp_path / "a.txt").write_text("text")
    assert read(tmp_path) == ["text"]
    with pytest.raises(
        CorpusError, match=r"model\.bin is half of a Megatron data set, and .*model\.idx does not exist"
    ):
        read(tmp_path / "model.bin")


def test_tokens_of_all_formats_give_the_same_corpus(tmp_path: Path) -> None:
    documents = [f"naïve {number} 模型\n" * (1 + number % 7) for number in range(40)]
    tokenizer = train_tokenizer(iter(documents), 300)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    ids = [tokenizer.encode(text).ids for text in documents]
    write_megatron(tmp_path / "megatron", [[each] for each in ids], np.int32)
    rows = np.zeros((len(ids), max(map(len, ids)) + 1), dtype=np.uint16)
    for row, each in zip(rows, ids, strict=True):
        row[: len(each)] = each
    np.save(tmp_path / "rows.npy", rows)
    np.save(tmp_path / "row.npy", np.concatenate([[*each, 0] for each in ids]))
    made = [
        prepare([tmp_path / name], tmp_path / f"{name}.out", **SMALL, tokenizer_path=tmp_path / "tokenizer.json")
        for name in ("megatron.bin", "rows.npy", "row.npy")
    ]
    assert made[0].splits == made[1].splits == made[2].splits
    assert made[0].sources[0].num_files == 2
