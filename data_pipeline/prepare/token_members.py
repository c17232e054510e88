"""Tokens of another tool, in .npy and .bin files and members of tar shards. They are checked before use."""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

from foretrain import limits
from foretrain.data_pipeline.corpus.manifest import token_dtype
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.unpack import READ_BYTES, too_large

Tokens = npt.NDArray[Any]
Document = str | Tokens
"""Text, or tokens without the EOT token."""

NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class TokenFormat:
    """How tokens are read. An EOT token ends a document, and is no part of it."""

    vocab_size: int
    eot_id: int
    bin_dtype: str = "uint16"
    """numpy's name of the little-endian integers in .bin members."""

    def read_npy(self, stream: io.BufferedIOBase, place: str) -> Iterator[Tokens]:
        """Yield the documents of a .npy file: a row of tokens, or several rows, each of which ends a document.

        Raises CorpusError unless it holds integers of such a shape. Nothing in it is unpickled.
        """
        try:
            shape, is_by_column, dtype = NPY_HEADERS[np.lib.format.read_magic(stream)](stream)
        # numpy's parser raises all of these.
        except (ValueError, TypeError, KeyError, SyntaxError, TokenError, RecursionError, MemoryError) as error:
            raise CorpusError(f"{place} is not a .npy array ({error}): repair it or leave it out") from error
        if len(shape) not in (1, 2) or dtype.kind not in "iu":
            raise CorpusError(
                f"{place} is {dtype} of shape {shape}, and neither a row of integers nor rows of integers: leave it out"
            )
        if len(shape) == 1:
            yield from self._split(_chunks(stream, shape[0], dtype, place), place)
        else:
            yield from self._rows(stream, (shape[0], shape[1]), dtype, is_by_column, place)
        if stream.read(1):
            raise CorpusError(
                f"{place} has more bytes than those of {math.prod(shape)} tokens: repair it or leave it out"
            )

    def read_bin(self, stream: io.BufferedIOBase, place: str) -> Iterator[Tokens]:
        """Yield the documents in raw tokens."""
        dtype, data = np.dtype(self.bin_dtype).newbyteorder("<"), stream.read()
        if len(data) % dtype.itemsize:
            raise CorpusError(
                f"{place} holds {len(data)} bytes, which is no number of {self.bin_dtype} tokens: choose another type "
                "with --token-dtype, or repair it"
            )
        yield from self.documents(np.frombuffer(data, dtype), place)

    def documents(self, tokens: Tokens, place: str) -> Iterator[Tokens]:
        """Yield the tokens between EOT tokens. Raises CorpusError for a token that the vocabulary does not have."""
        yield from self._split(iter([tokens]), place)

    def _rows(
        self, stream: io.BufferedIOBase, shape: tuple[int, int], dtype: np.dtype[Any], is_by_column: bool, place: str
    ) -> Iterator[Tokens]:
        num_rows, num_columns = shape
        row_bytes = num_columns * dtype.itemsize
        if row_bytes > limits.DOCUMENT_BYTES:
            raise too_large(f"{place}: a row")
        if not row_bytes:
            return
        if is_by_column:
            if num_rows * row_bytes > limits.DOCUMENT_BYTES:
                raise CorpusError(
                    f"{place} has more than {limits.DOCUMENT_BYTES:,} bytes, column after column: save it row after "
                    "row, with numpy.ascontiguousarray"
                )
            rows = np.concatenate([np.empty(0, dtype), *_chunks(stream, num_rows * num_columns, dtype, place)])
            for number, row in enumerate(np.reshape(rows, shape, order="F")):
                yield from self._split(iter([row]), place, number * num_columns)
            return
        rows_at_once = max(1, READ_BYTES // row_bytes)
        for first in range(0, num_rows, rows_at_once):
            count = min(rows_at_once, num_rows - first)
            rows = np.concatenate([*_chunks(stream, count * num_columns, dtype, place)])
            for number, row in enumerate(rows.reshape(count, num_columns), first):
                yield from self._split(iter([row]), place, number * num_columns)

    def _split(self, chunks: Iterator[Tokens], place: str, first: int = 0) -> Iterator[Tokens]:
        """Yield the documents of consecutive tokens. `first`: the number, in the file, of the first of them."""
        parts: list[Tokens] = []
        num_bytes = 0
        for chunk in chunks:
            wrong = np.flatnonzero((chunk < 0) | (chunk >= self.vocab_size))
            if len(wrong):
                raise CorpusError(
                    f"{place}: token number {first + wrong[0]} is {chunk[wrong[0]]}, but the vocabulary has "
                    f"{self.vocab_size} tokens: choose the tokenizer that made them with --tokenizer, and the type of "
                    ".bin members with --token-dtype"
                )
            first += len(chunk)
            tokens = chunk.astype(token_dtype(self.vocab_size))
            start = 0
            for end in np.flatnonzero(tokens == self.eot_id).tolist():
                yield np.concatenate([*parts, tokens[start:end]])
                start, parts, num_bytes = end + 1, [], 0
            parts.append(tokens[start:])
            num_bytes += parts[-1].nbytes
            if num_bytes > limits.DOCUMENT_BYTES:
                raise too_large(f"{place}: the document that ends after token number {first - 1}")
        if parts:
            yield np.concatenate(parts)


def _chunks(stream: io.BufferedIOBase, num_tokens: int, dtype: np.dtype[Any], place: str) -> Iterator[Tokens]:
    """Yield the next tokens of a stream, a limited number at once: a header may claim any number of them."""
    num_left = num_tokens
    while num_left:
        num_bytes = min(num_left, READ_BYTES // dtype.itemsize) * dtype.itemsize
        data = stream.read(num_bytes)
        if len(data) < num_bytes:
            raise CorpusError(f"{place} is cut short, before its last token: repair it or leave it out")
        num_left -= num_bytes // dtype.itemsize
        yield np.frombuffer(data, dtype)
