"""Tokens of another tool, in .npy and .bin members of plain WebDataset shards. They are checked before use."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

from foretrain.data_pipeline.corpus.manifest import token_dtype
from foretrain.data_pipeline.errors import CorpusError

Tokens = npt.NDArray[Any]
NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class TokenFormat:
    """How the tokens in members are read."""

    vocab_size: int
    eot_id: int
    bin_dtype: str = "uint16"
    """numpy's name of the little-endian integers in .bin members."""

    def read_npy(self, data: bytes, place: str) -> Iterator[Tokens]:
        """Yield the documents in the bytes of a .npy file. Raises CorpusError unless it is a row of integers."""
        file = io.BytesIO(data)
        try:
            shape, _, dtype = NPY_HEADERS[np.lib.format.read_magic(file)](file)
        # numpy's parser raises all of these.
        except (ValueError, TypeError, KeyError, SyntaxError, TokenError, RecursionError, MemoryError) as error:
            raise CorpusError(f"{place} is not a .npy array ({error}): repair it or leave it out") from error
        if len(shape) != 1 or dtype.kind not in "iu":
            raise CorpusError(f"{place} is {dtype} of shape {shape}, not a row of integers: leave it out")
        num_bytes = len(data) - file.tell()
        if num_bytes != shape[0] * dtype.itemsize:
            raise CorpusError(
                f"{place} has {num_bytes} bytes, not those of {shape[0]} tokens: repair it or leave it out"
            )
        yield from self._documents(np.frombuffer(data, dtype, offset=file.tell()), place)

    def read_bin(self, data: bytes, place: str) -> Iterator[Tokens]:
        """Yield the documents in raw tokens."""
        dtype = np.dtype(self.bin_dtype).newbyteorder("<")
        if len(data) % dtype.itemsize:
            raise CorpusError(
                f"{place} holds {len(data)} bytes, which is no number of {self.bin_dtype} tokens: choose another type "
                "with --token-dtype, or repair it"
            )
        yield from self._documents(np.frombuffer(data, dtype), place)

    def _documents(self, tokens: Tokens, place: str) -> Iterator[Tokens]:
        """Yield the tokens between EOT tokens."""
        wrong = np.flatnonzero((tokens < 0) | (tokens >= self.vocab_size))
        if len(wrong):
            raise CorpusError(
                f"{place}: token number {wrong[0]} is {tokens[wrong[0]]}, but the vocabulary has {self.vocab_size} "
                "tokens: choose the tokenizer that made them with --tokenizer, and the type of .bin with --token-dtype"
            )
        start = 0
        for end in [*np.flatnonzero(tokens == self.eot_id).tolist(), len(tokens)]:
            yield tokens[start:end].astype(token_dtype(self.vocab_size))
            start = end + 1
