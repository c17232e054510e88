"""A split of a corpus as one long stream of tokens, from which any range can be read.

The stream is the samples of all shards in the order of the manifest. The index alone says where they are, so a shard is
not opened before one of its tokens is read.

Shape letters: N rows, C tokens of a row.
"""

import errno
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from foretrain.configs.data import CacheConfig
from foretrain.data_pipeline.corpus.check import check_sha256, open_checked
from foretrain.data_pipeline.corpus.index import Index, IntArray
from foretrain.data_pipeline.corpus.manifest import TOKENIZER, Manifest, index_name
from foretrain.data_pipeline.corpus.open_files import MAX_OPEN, OpenFile, OpenFiles
from foretrain.data_pipeline.corpus.opening import open_store
from foretrain.data_pipeline.corpus.shard_writer import LENS_DTYPE, member_key
from foretrain.data_pipeline.corpus.store import Store
from foretrain.data_pipeline.corpus.verify import read_manifest
from foretrain.data_pipeline.errors import CorpusError, UnreachableError, UnreadableError, remedy_of
from foretrain.faults import is_full, is_passing


@dataclass(frozen=True)
class TokenPlace:
    """The place of a token on disk."""

    shard: str
    member: str
    """Name of the sample (WebDataset's key), without a suffix."""
    offset_bytes: int
    """Position of the token in the shard's file."""


SEGMENT_TOKENS = 1 << 15
"""Tokens that are read together the first time: about as many as an operating system reads ahead."""


class TokenStream:
    """The tokens of one split. Several threads may read at once; a pickled copy opens its files again.

    Reading raises UnreadableError for a shard that cannot be fetched or read, ends too early, or holds a token that is
    not in the vocabulary.
    """

    def __init__(self, store: Store, manifest: Manifest, split: str, index: Index) -> None:
        info = manifest.splits[split]
        self.store = store
        self.manifest = manifest
        self.split = split
        self.folder = store.url
        self.dtype = np.dtype(manifest.dtype).newbyteorder("<")
        self.vocab_size = manifest.vocab_size
        self.eot_id = manifest.eot_id
        self.tokenizer_sha256 = manifest.tokenizer_sha256
        self.num_tokens = info.num_tokens
        self.fingerprint = _fingerprint(manifest, split)
        """Hash of the tokens of the split, their order, and the tokenizer."""
        self.shard_names = [shard.name for shard in info.shards]
        self._shard_bytes = [shard.size_bytes for shard in info.shards]
        self._index = index
        self.files = OpenFiles(store, self.shard_names)
        self._is_segment_read = self._no_segment_read()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_index", "_is_segment_read")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._index = Index.open(self.store.path(index_name(self.split)), self.manifest.splits[self.split])
        self._is_segment_read = self._no_segment_read()

    @property
    def shard_starts(self) -> IntArray:
        """Position in the stream of each shard's first token, and the stream's end: shape (num_shards + 1,)."""
        return self._index.shard_starts

    def read_tokenizer(self) -> bytes:
        """The content of tokenizer.json. Raises CorpusError if it is missing, or is not what was written."""
        path = self.store.path(TOKENIZER)
        check_sha256(path, self.tokenizer_sha256)
        return path.read_bytes()

    def read(self, start: int, count: int) -> npt.NDArray[Any]:
        """Return a copy of tokens [start, start + count), of shape (count,)."""
        assert 0 <= start <= start + count <= self.num_tokens, (
            f"tokens [{start}, {start + count}) are not within the {self.num_tokens} of the stream"
        )
        tokens = np.empty((1, count), dtype=self.dtype)
        self._fill(tokens[0], start)
        self._check_vocabulary(np.array([start]), tokens)
        return tokens[0]

    def read_rows(self, starts: IntArray, out_NC: npt.NDArray[Any]) -> None:
        """Fill row n with tokens [starts[n], starts[n] + C); starts has shape (N,), and the rows any integer type."""
        num_rows, num_columns = out_NC.shape
        if num_rows == 0 or num_columns == 0:
            return
        assert starts.min() >= 0 and starts.max() + num_columns <= self.num_tokens, (
            f"rows of {num_columns} tokens from {starts.min()} to {starts.max()} on are not within {self.num_tokens} "
            "of the stream"
        )
        for first in range(0, num_rows, MAX_OPEN):  # in the worst case, each row is in another file
            self._read_rows(starts[first : first + MAX_OPEN], out_NC[first : first + MAX_OPEN])

    def locate(self, starts: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        """Return (shard, byte offset in its file, tokens from there to the sample's end) of positions in the stream."""
        index = self._index
        member = index.start.searchsorted(starts, side="right") - 1
        shard = index.shard_starts.searchsorted(starts, side="right") - 1
        offset_bytes = index.tokens_at[member] + (starts - index.start[member]) * self.dtype.itemsize
        return shard, offset_bytes, index.start[member + 1] - starts

    def where(self, position: int) -> TokenPlace:
        """Return the place of the token at a position in the stream."""
        assert 0 <= position < self.num_tokens, f"{position} is not among the {self.num_tokens} tokens of the stream"
        shard, offset_bytes, _ = (int(each[0]) for each in self.locate(np.array([position])))
        member = int(np.searchsorted(self._index.start, position, side="right")) - 1
        return TokenPlace(self.shard_names[shard], member_key(self.split, member), offset_bytes)

    def document_starts(self, shard: int) -> IntArray:
        """Return the positions in the stream at which the documents of shard number `shard` begin."""
        index = self._index
        first, end = index.first_members[shard : shard + 2].tolist()
        num_lens, num_tokens = index.num_lens[first:end], np.diff(index.start[first : end + 1])
        ends = np.cumsum(num_lens)
        lens = np.empty(int(ends[-1]), dtype=LENS_DTYPE)
        for at, begin, stop in zip(index.lens_at[first:end].tolist(), ends - num_lens, ends, strict=True):
            self._read_exactly(shard, lens[begin:stop].view(np.uint8).data, at)
        is_possible = (lens > 0) & (lens <= np.repeat(num_tokens, num_lens))
        sums = np.concatenate([[0], np.cumsum(np.where(is_possible, lens, 0))])
        wrong = np.flatnonzero(sums[ends] - sums[ends - num_lens] != num_tokens)
        if len(wrong):
            at = int(index.lens_at[first + wrong[0]])
            raise self._unreadable(shard, at, "these lengths of documents do not add up to the tokens of their sample")
        before = slice(max(first - 1, 0), end - 1)
        continues = index.num_documents[before] < index.num_lens[before]
        begins_inside = np.concatenate([[False] * (first == 0), continues]).astype(bool)
        return np.delete(index.shard_starts[shard] + sums[:-1], (ends - num_lens)[begins_inside])

    def _read_rows(self, starts: IntArray, out_NC: npt.NDArray[Any]) -> None:
        is_stored_type = out_NC.dtype == self.dtype and out_NC.flags.c_contiguous
        tokens_NC = out_NC if is_stored_type else np.empty(out_NC.shape, dtype=self.dtype)
        try:
            self._fill_mapped_rows(tokens_NC, starts)
        except (CorpusError, OSError):
            self._fill_rows(tokens_NC, starts)
        self._check_vocabulary(starts, tokens_NC)
        if not is_stored_type:
            out_NC[...] = tokens_NC

    def _fill_mapped_rows(self, tokens_NC: npt.NDArray[Any], starts: IntArray) -> None:
        """Copy rows from memory maps of the files, without a system call for each row.

        A failure in a mapped file is a signal and not an error. So a segment is first read through its descriptor, and
        the size of each file is compared again at every call. Raises CorpusError, OSError.
        """
        num_columns = tokens_NC.shape[1]
        if num_columns > SEGMENT_TOKENS:  # copying takes most of the time in either way
            self._fill_rows(tokens_NC, starts)
            return
        self._read_segments(starts // SEGMENT_TOKENS)
        self._read_segments((starts + num_columns - 1) // SEGMENT_TOKENS)
        shards_N, offsets_N, left_N = self.locate(starts)
        shards = shards_N.tolist()
        files = {shard: self.files.get(shard).mapped(self._shard_bytes[shard]) for shard in set(shards)}
        # Slices of memoryviews take half the time of slices of arrays for rows of a few thousand tokens.
        out, row_bytes = tokens_NC.data.cast("B"), num_columns * self.dtype.itemsize
        for row, (shard, offset, left) in enumerate(zip(shards, offsets_N.tolist(), left_N.tolist(), strict=True)):
            if left >= num_columns:
                out[row * row_bytes : (row + 1) * row_bytes] = files[shard][offset : offset + row_bytes]
            else:
                self._fill(tokens_NC[row], int(starts[row]))

    def _read_segments(self, segments: IntArray) -> None:
        is_read = self._is_segment_read[segments]
        if is_read.all():
            return
        for segment in np.unique(segments[~is_read]).tolist():
            first = segment * SEGMENT_TOKENS
            self._fill(np.empty(min(SEGMENT_TOKENS, self.num_tokens - first), dtype=self.dtype), first)
            self._is_segment_read[segment] = True

    def _fill_rows(self, tokens_NC: npt.NDArray[Any], starts: IntArray) -> None:
        for tokens_C, start in zip(tokens_NC, starts.tolist(), strict=True):
            self._fill(tokens_C, start)

    def _no_segment_read(self) -> npt.NDArray[np.bool_]:
        return np.zeros(-(-self.num_tokens // SEGMENT_TOKENS), dtype=bool)

    def _fill(self, tokens_C: npt.NDArray[Any], start: int) -> None:
        """Fill a row with the tokens from a position on, which may lie in several samples and shards."""
        done = 0
        while done < len(tokens_C):
            shard, offset_bytes, num_left = (int(each[0]) for each in self.locate(np.array([start + done])))
            piece = tokens_C[done : done + num_left]
            self._read_exactly(shard, piece.view(np.uint8).data, offset_bytes)
            done += len(piece)

    def _read_exactly(self, shard: int, view: memoryview, offset_bytes: int) -> None:
        file = self._open(shard)
        while len(view):
            try:
                num_bytes = os.preadv(file.fd, (view,), offset_bytes)
            except OSError as error:
                raise self._cannot_be_read(shard, offset_bytes, error) from error
            if num_bytes == 0:
                raise self._unreadable(shard, offset_bytes, "the file ends there")
            view, offset_bytes = view[num_bytes:], offset_bytes + num_bytes

    def _open(self, shard: int) -> OpenFile:
        try:
            return self.files.get(shard)
        except UnreadableError:
            raise
        except (CorpusError, OSError) as error:
            if isinstance(error, OSError):
                raise self._cannot_be_read(shard, 0, error) from error
            passes, has_no_room = is_passing(error), is_full(error)  # a fault of the cache
            raise UnreachableError(str(error), self.shard_names[shard], 0, passes, has_no_room) from error

    def _check_vocabulary(self, starts: IntArray, tokens_NC: npt.NDArray[Any]) -> None:
        if tokens_NC.size == 0 or tokens_NC.max() < self.vocab_size:
            return
        row, column = np.argwhere(tokens_NC >= self.vocab_size)[0]
        shard, offset_bytes, _ = (int(each[0]) for each in self.locate(starts[row : row + 1] + column))
        what = f"token {tokens_NC[row, column]} is not among the {self.vocab_size} of the vocabulary"
        raise self._unreadable(shard, offset_bytes, what)

    def _cannot_be_read(self, shard: int, offset_bytes: int, error: OSError) -> UnreadableError:
        """The error for a failed call. Where it is sure to pass, no other sample may replace what cannot be read now:
        not after EIO, which a bad sector says too, unless the file is a copy in the cache."""
        name = self.shard_names[shard]
        message = f"{self.folder}/{name} cannot be read ({error.strerror}) at byte {offset_bytes}: {remedy_of(error)}"
        is_sure = not self.store.is_local or (is_passing(error) and error.errno != errno.EIO)
        kind = UnreachableError if is_sure else UnreadableError
        return kind(message, name, offset_bytes, is_passing(error), is_full(error))

    def _unreadable(self, shard: int, offset_bytes: int, what: str) -> UnreadableError:
        name = self.shard_names[shard]
        message = f"{self.folder}/{name} is damaged at byte {offset_bytes}: {what}; run `foretrain data verify`"
        return UnreadableError(message, name, offset_bytes)


def open_corpus(
    path: str | Path,
    split: str,
    cache: CacheConfig | None = None,
    *,
    progress: bool = False,
    check: bool = True,
    sha256: str | None = None,
) -> TokenStream:
    """Return the stream of a split ("train" or "val") of a corpus; `path` is its folder or URL.

    `sha256`: that of its manifest.json, without which the corpus is refused.

    In a folder, the size and structure of every shard are checked if `check`, but not its tokens (see `verify`). Of a
    remote corpus, only the manifest and the index are fetched. Raises CorpusError with the file, and the byte if there
    is one.
    """
    store = open_store(path, cache)
    manifest = read_manifest(store, sha256)
    if split not in manifest.splits:
        raise CorpusError(f"{store.url} has no split {split!r}: choose one of {', '.join(manifest.splits)}")
    info = manifest.splits[split]
    if not info.shards:
        raise CorpusError(f"the {split} split of {store.url} is empty: prepare a corpus of at least two documents")
    if store.is_local and check:
        index = open_checked(Path(store.url), split, info, manifest.dtype, progress=progress)
    else:
        index = Index.open(store.path(index_name(split)), info)
    return TokenStream(store, manifest, split, index)


def _fingerprint(manifest: Manifest, split: str) -> str:
    parts = [manifest.tokenizer_sha256, *(shard.sha256 for shard in manifest.splits[split].shards)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
