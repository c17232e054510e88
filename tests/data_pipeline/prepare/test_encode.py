"""From documents to tokens: the splits, and the EOT at the end of each document."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain.data_pipeline.prepare import encode
from foretrain.data_pipeline.prepare.encode import encode_documents, split_documents
from foretrain.data_pipeline.prepare.tokenizer import EOT, train_tokenizer

TOKENIZER = train_tokenizer(iter(["one two three\nfour"] * 5), 270)

texts = st.lists(st.text(min_size=1, max_size=5), max_size=40)


@given(texts, st.floats(0.001, 0.5))
def test_every_document_is_in_one_split_and_two_documents_fill_both(documents: list[str], val_fraction: float) -> None:
    chosen = list(split_documents(documents, val_fraction))
    assert chosen == list(split_documents(documents, val_fraction))
    if len(documents) >= 2:
        assert sorted(document for _, document in chosen) == sorted(documents)
        assert {split for split, _ in chosen} == {"train", "val"}


@given(st.text(alphabet="ab\n", min_size=2, max_size=200), st.floats(0.001, 0.5))
def test_the_end_of_a_single_document_becomes_the_val_split(document: str, val_fraction: float) -> None:
    (first, beginning), (second, end) = split_documents([document], val_fraction)
    assert (first, second) == ("train", "val")
    assert isinstance(beginning, str) and isinstance(end, str)
    assert beginning + end == document
    assert beginning.endswith("\n") or "\n" not in beginning


def test_a_single_document_is_cut_after_a_line() -> None:
    lines = [f"line {number:03}\n" for number in range(100)]
    assert dict(split_documents(["".join(lines)], 0.1)) == {"train": "".join(lines[:90]), "val": "".join(lines[90:])}
    assert list(split_documents(["x"], 0.1)) == [("val", "x")]


def test_the_val_split_is_as_large_as_asked() -> None:
    documents = [f"document {number}" for number in range(20_000)]
    num_val = sum(split == "val" for split, _ in split_documents(documents, 0.02))
    assert num_val == pytest.approx(400, abs=60)  # three standard deviations


@given(texts)
def test_each_document_is_encoded_as_its_tokens_and_one_eot(documents: list[str]) -> None:
    pairs = [("train", document) for document in documents]
    encoded = list(encode_documents(pairs, TOKENIZER, eot_id=0, dtype=np.uint16))
    assert len(encoded) == len(documents)
    for document, result in zip(documents, encoded, strict=True):
        assert result.tokens.dtype == np.uint16
        assert np.flatnonzero(result.tokens == 0).tolist() == [len(result.tokens) - 1]
        assert TOKENIZER.decode(result.tokens[:-1].tolist(), skip_special_tokens=False) == document
        assert result.num_text_bytes == len(document.encode())


def test_an_eot_spelled_out_in_a_text_does_not_end_a_document() -> None:
    (result,) = encode_documents([("train", f"a{EOT}b")], TOKENIZER, eot_id=0, dtype=np.uint16)
    assert np.count_nonzero(result.tokens == 0) == 1
    assert TOKENIZER.decode(result.tokens[:-1].tolist()) == f"a{EOT}b"


def test_the_size_of_a_batch_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(f"split {count}", "one two\n" * count) for count in (1, 50, 3, 400)]
    complete = list(encode_documents(pairs, TOKENIZER, eot_id=0, dtype=np.uint16))
    monkeypatch.setattr(encode, "BATCH_CHARS", 1)
    one_by_one = list(encode_documents(pairs, TOKENIZER, eot_id=0, dtype=np.uint16))
    assert [(each.split, each.num_text_bytes, each.tokens.tolist()) for each in complete] == [
        (each.split, each.num_text_bytes, each.tokens.tolist()) for each in one_by_one
    ]
