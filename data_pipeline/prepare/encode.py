"""From documents to arrays of tokens: the split of each document, its encoding, and the EOT token at its end."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, islice
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from foretrain.data_pipeline.prepare.background import map_one_ahead
from foretrain.data_pipeline.prepare.token_members import Document
from foretrain.data_pipeline.prepare.tokenizer import TextBytes, cut_into_pieces

BATCH_CHARS = 4 << 20
"""Characters (or tokens) in a batch for the tokenizer's threads. The library needs about 30 times their size while it
works, and the next batch is read at the same time."""


@dataclass(frozen=True)
class EncodedDocument:
    """A document in the form in which it is written into a shard."""

    split: str
    tokens: npt.NDArray[Any]
    """The last one is the EOT token. It is nowhere else, unless it is an ordinary token of the vocabulary."""
    num_text_bytes: int
    """UTF-8 bytes of its text."""


@dataclass(frozen=True)
class _Piece:
    split: str
    content: Document
    ends_document: bool


def split_documents(
    documents: Iterable[Document], val_fraction: float, first_index: int = 0
) -> Iterator[tuple[str, Document]]:
    """Yield (split, document) for each document; a hash of its content and index chooses the split.

    A hash below `val_fraction` means val. The first document is always in the train split. As long as there is no val
    document, the one with the lowest hash is held back, and becomes the val split if none follows: two documents are
    enough for both splits. A single document is cut in two, and its end becomes the val split.

    `first_index` is the number of documents before these. If it is not 0, a val document must be among them.
    """
    if first_index:
        for index, document in enumerate(documents, start=first_index):
            yield "val" if _hash_value(index, document) < val_fraction else "train", document
        return
    rest = iter(documents)
    first_two = list(islice(rest, 2))
    if len(first_two) < 2:
        for document in first_two:
            yield from _split_single_document(document, val_fraction)
        return
    yield "train", first_two[0]

    held_back: tuple[float, Document] | None = None
    val_is_empty = True
    for index, document in enumerate(chain(first_two[1:], rest), start=1):
        value = _hash_value(index, document)
        if value < val_fraction:
            yield "val", document
            val_is_empty = False
            if held_back is not None:
                yield "train", held_back[1]
                held_back = None
        elif val_is_empty and (held_back is None or value < held_back[0]):
            if held_back is not None:
                yield "train", held_back[1]
            held_back = value, document
        else:
            yield "train", document
    if held_back is not None:
        yield "val", held_back[1]


def split_by_file(
    documents: Iterable[Document], split_of_file: Callable[[], str], val_fraction: float, first_index: int = 0
) -> Iterator[tuple[str, Document]]:
    """Yield (split, document) for each document, in order, where some files are held out.

    `split_of_file` says, after each document, which split its file is for. Of those for the train split, the documents
    whose hash is below `val_fraction` are in the val split. `first_index` is the number of documents before these.
    """
    for index, document in enumerate(documents, start=first_index):
        split = split_of_file()
        if split == "train" and val_fraction > 0 and _hash_value(index, document) < val_fraction:
            split = "val"
        yield split, document


def encode_documents(
    documents: Iterable[tuple[str, Document]], tokenizer: Tokenizer, *, eot_id: int, dtype: npt.DTypeLike
) -> Iterator[EncodedDocument]:
    """Yield the (split, document) pairs in encoded form, in order. Documents of tokens stay as they are.

    The tokenizer uses all cores. A special token that is spelled out in a text is encoded as ordinary text, so no text
    can end a document.
    """
    tokenizer.encode_special_tokens = True
    text_bytes = TextBytes(tokenizer)
    parts: list[npt.NDArray[Any]] = []
    num_text_bytes = 0

    def encode(batch: list[_Piece]) -> list[Encoding]:
        texts = [piece.content for piece in batch if isinstance(piece.content, str)]
        return tokenizer.encode_batch_fast(texts, add_special_tokens=False)

    for batch, encodings in map_one_ahead(encode, _batches(_pieces(documents))):
        encodings.reverse()  # each is freed when its array is made, which is much smaller
        for piece in batch:
            if isinstance(piece.content, str):
                parts.append(np.array(encodings.pop().ids, dtype=dtype))
                num_text_bytes += len(piece.content.encode("utf-8"))
            else:
                parts.append(piece.content.astype(dtype))
                num_text_bytes += text_bytes.count(piece.content)
            if piece.ends_document:
                parts.append(np.array([eot_id], dtype=dtype))
                yield EncodedDocument(piece.split, np.concatenate(parts), num_text_bytes)
                parts, num_text_bytes = [], 0


def _split_single_document(document: Document, val_fraction: float) -> Iterator[tuple[str, Document]]:
    """Yield a document's beginning as train and its end as val, cut after a line if there is one."""
    end = len(document) - max(1, round(val_fraction * len(document)))  # at least one character is held out
    if isinstance(document, str):
        end = document.rfind("\n", 0, end) + 1 or end
    for split, part in (("train", document[:end]), ("val", document[end:])):
        if len(part):
            yield split, part


def _hash_value(index: int, document: Document) -> float:
    """Return a number in [0, 1) that depends on the index and the content only."""
    content = document.encode("utf-8") if isinstance(document, str) else document.astype("<u4").tobytes()
    digest = blake2b(content, digest_size=8, key=index.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little") / 2**64


def _pieces(documents: Iterable[tuple[str, Document]]) -> Iterator[_Piece]:
    for split, document in documents:
        if not isinstance(document, str):
            yield _Piece(split, document, ends_document=True)
            continue
        done_chars = 0
        for text in cut_into_pieces(document):
            done_chars += len(text)
            yield _Piece(split, text, ends_document=done_chars == len(document))


def _batches(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    batch: list[_Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.content)
        if size >= BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
