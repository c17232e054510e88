"""Tokens that others made: members .npy and .bin of plain WebDataset shards, checked before they are believed."""

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
    """What tokens are taken for."""

    vocab_size: int
    eot_id: int
    bin_dtype: str = "uint16"
    """numpy's name of the little-endian integers that a .bin member is made of."""

    def of_npy(self, data: bytes, place: str) -> Iterator[Tokens]:
        """Yield the documents of the bytes of a .npy file; raise CorpusError unless it is a row of integers."""
        file = io.BytesIO(data)
        try:
            shape, _, dtype = NPY_HEADERS[np.lib.format.read_magic(file)](file)
        # All of these leave numpy's parser.
        except (ValueError, TypeError, KeyError, SyntaxError, TokenError, RecursionError, MemoryError) as error:
            raise CorpusError(f"{place} is not a .npy array ({error}): mend it or leave it out") from error
        if len(shape) != 1 or dtype.kind not in "iu":
            raise CorpusError(f"{place} is {dtype} of shape {shape}, not a row of integers: leave it out")
        num_bytes = len(data) - file.tell()
        if num_bytes != shape[0] * dtype.itemsize:
            raise CorpusError(f"{place} has {num_bytes} bytes, not those of {shape[0]} tokens: mend it or leave it out")
        yield from self._documents(np.frombuffer(data, dtype, offset=file.tell()), place)

    def of_bin(self, data: bytes, place: str) -> Iterator[Tokens]:
        """Yield the documents of raw tokens."""
        dtype = np.dtype(self.bin_dtype).newbyteorder("<")
        if len(data) % dtype.itemsize:
            raise CorpusError(
                f"{place} holds {len(data)} bytes, which is no number of {self.bin_dtype} tokens: choose with "
                "--token-dtype, or mend it"
            )
        yield from self._documents(np.frombuffer(data, dtype), place)

    def _documents(self, tokens: Tokens, place: str) -> Iterator[Tokens]:
        """Yield what lies between EOT tokens, without these."""
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
