"""Indexed data sets of Megatron-LM and megatron-core: tokens in X.bin, and the places of their documents in X.idx.

The index has, little-endian and without padding: 9 bytes of magic, the version (8 bytes), a code of the tokens' type
(1), the number of sequences and the number of documents plus one (8 each); for each sequence its number of tokens (4)
and its first byte in X.bin (8); and the first sequence of each document (8), followed by the number of sequences.
"""

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from foretrain import limits
from foretrain.data_pipeline.corpus.manifest import read_bounded
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.formats.base import Documents, Format, Reading
from foretrain.data_pipeline.prepare.token_members import Tokens
from foretrain.data_pipeline.prepare.unpack import too_large

DATA, INDEX = ".bin", ".idx"
HEADER = struct.Struct("<9sQBQQ")
MAGIC, VERSION = b"MMIDIDX\0\0", 1
DTYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float64", 7: "float32", 8: "uint16"}

IntArray = npt.NDArray[np.int64]


class Megatron(Format):
    """Documents of tokens. An EOT token inside of one, and at its end, ends a document as everywhere."""

    endings = (DATA, INDEX)
    may_be_compressed = False

    def is_input(self, file: Path) -> bool:
        """Whether both files of a data set are there: other programs use these endings too."""
        return file.with_suffix(DATA).is_file() and file.with_suffix(INDEX).is_file()

    def files_of(self, file: Path) -> list[Path]:
        """Both files of the data set. Raises CorpusError if one is missing."""
        both = [file.with_suffix(DATA), file.with_suffix(INDEX)]
        for each in both:
            if not each.is_file():
                raise CorpusError(
                    f"{file} is half of a Megatron data set, and {each} does not exist: copy both into one folder"
                )
        return both

    def read(self, stream: io.BufferedIOBase, file: Path, reading: Reading) -> Documents:
        """Yield the documents of X.bin; X.idx has none."""
        if file.suffix == INDEX:
            return
        tokens = reading.tokens_of(str(file))
        index = _Index.read(file.with_suffix(INDEX), stream.seek(0, io.SEEK_END))
        for number in range(len(index.documents_D) - 1):
            place = f"{file}: document {number}"
            first, end = index.documents_D[number : number + 2].tolist()
            if index.lengths_S[first:end].sum() * index.dtype.itemsize > limits.DOCUMENT_BYTES:
                reading.texts.bad(too_large(place))
                continue
            parts = [_sequence(stream, index, sequence, place) for sequence in range(first, end)]
            if parts:
                yield from tokens.documents(np.concatenate(parts), place)


@dataclass(frozen=True)
class _Index:
    """The content of an index. Shape letters: S sequences, D documents plus one."""

    dtype: np.dtype[Any]
    lengths_S: IntArray
    """Tokens of each sequence."""
    starts_S: IntArray
    """First byte of each sequence in the file of the tokens."""
    documents_D: IntArray
    """First sequence of each document, then the number of sequences."""

    @classmethod
    def read(cls, path: Path, data_bytes: int) -> "_Index":
        """Return the index of a file with that many bytes. Raises CorpusError if it cannot be that."""
        # Not the limit itself: a read takes the memory of all that it may return.
        content = read_bounded(path, min(path.stat().st_size, limits.MEGATRON_INDEX_BYTES))
        if len(content) < HEADER.size or not content.startswith(MAGIC):
            raise CorpusError(f"{path} is not the index of a Megatron data set: leave it and its {DATA} out")
        _, version, code, num_sequences, num_documents = HEADER.unpack_from(content)
        name = DTYPES.get(code, f"code {code}")
        if version != VERSION or np.dtype(DTYPES.get(code, float)).kind not in "iu":
            raise CorpusError(
                f"{path} has version {version} and tokens of type {name}, not version {VERSION} and integers: leave it "
                f"and its {DATA} out"
            )
        num_bytes = HEADER.size + 12 * num_sequences + 8 * num_documents
        if len(content) == num_bytes + num_sequences and num_sequences:
            raise CorpusError(f"{path} is the index of sequences of several kinds, not only text: leave it out")
        if len(content) != num_bytes:
            raise _damaged(
                path,
                f"its {num_sequences:,} sequences and {num_documents:,} ends of documents are {num_bytes:,} bytes, and "
                f"it has {len(content):,}",
            )
        lengths_at, starts_at = HEADER.size, HEADER.size + 4 * num_sequences
        index = cls(
            np.dtype(name).newbyteorder("<"),
            np.frombuffer(content, "<i4", num_sequences, lengths_at).astype(np.int64),
            np.frombuffer(content, "<i8", num_sequences, starts_at),
            np.frombuffer(content, "<i8", num_documents, starts_at + 8 * num_sequences),
        )
        index._check(path, data_bytes)
        return index

    def _check(self, path: Path, data_bytes: int) -> None:
        lengths_S, starts_S, documents_D = self.lengths_S, self.starts_S, self.documents_D
        sizes_S = lengths_S * self.dtype.itemsize
        wrong_S = (lengths_S < 0) | (starts_S < 0) | (starts_S > data_bytes) | (sizes_S > data_bytes - starts_S)
        if wrong_S.any():
            number = int(np.flatnonzero(wrong_S)[0])
            raise _damaged(
                path,
                f"sequence {number} has {lengths_S[number]:,} tokens at byte {starts_S[number]:,} of {data_bytes:,}",
            )
        if sizes_S.sum() > data_bytes:
            raise _damaged(path, f"its sequences have {sizes_S.sum():,} bytes, and {DATA} has {data_bytes:,}")
        edges = (documents_D[0], documents_D[-1]) if len(documents_D) else ()
        if edges != (0, len(lengths_S)) or (np.diff(documents_D) < 0).any():
            raise _damaged(path, f"its documents are not all of its {len(lengths_S):,} sequences, in order")


def _sequence(stream: io.BufferedIOBase, index: _Index, number: int, place: str) -> Tokens:
    num_bytes = int(index.lengths_S[number]) * index.dtype.itemsize
    stream.seek(int(index.starts_S[number]))
    data = stream.read(num_bytes)
    if len(data) < num_bytes:
        raise CorpusError(f"{place} has become shorter while it was read: start again")
    return np.frombuffer(data, index.dtype)


def _damaged(path: Path, what: str) -> CorpusError:
    return CorpusError(f"{path} is not the index of its {DATA}: {what}; copy both again, or leave them out")
