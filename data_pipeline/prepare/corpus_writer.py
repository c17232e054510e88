"""Writer of all splits of a corpus, which keeps the journal. After a stop, writing resumes from the journal."""

import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from foretrain.data_pipeline.corpus.manifest import TOKENIZER, SplitInfo
from foretrain.data_pipeline.corpus.shard_writer import SplitWriter
from foretrain.data_pipeline.prepare.documents import DocumentReader, ReadPosition
from foretrain.data_pipeline.prepare.encode import EncodedDocument
from foretrain.data_pipeline.prepare.journal import JOURNAL, ResumePoint, write_journal

JOURNAL_EVERY_S = 10.0
"""Seconds between two journals: the most work that is lost when a run is killed."""


class CorpusWriter:
    """Writer of a corpus from a point on. As a context manager it closes its files, even after an error.

    `in_order`: documents are added in the order in which they are read, as by `split_by_file`.
    Raises CorpusError if the folder does not hold the shards of the point.
    """

    def __init__(
        self, folder: Path, point: ResumePoint, *, block_bytes: int, shard_tokens: int, in_order: bool = False
    ) -> None:
        self._folder, self._in_order = folder, in_order
        self._num_documents, self._first_val = point.num_documents, point.first_val
        self.counts: dict[str, npt.NDArray[np.int64]] = {
            split: counts_V.copy() for split, counts_V in point.counts.items()
        }
        """Number of each token in each split; shape (vocab_size,)."""
        self._remove_leftovers(point)
        self._writers = {
            split: SplitWriter(
                folder, split, block_bytes=block_bytes, shard_tokens=shard_tokens, state=point.writers.get(split)
            )
            for split in point.counts
        }
        self._saved_s = time.monotonic()

    def add(self, document: EncodedDocument) -> None:
        """Append the next document to its split, and one of a named set of held-out files to the val split too."""
        is_held_out = document.split != "train"
        for split in {document.split, "val"} if is_held_out else {"train"}:
            self._writers[split].add(document.tokens, document.num_text_bytes)
            np.add.at(self.counts[split], document.tokens, 1)
        if is_held_out and self._first_val is None:
            self._first_val = self._num_documents
        self._num_documents += 1

    def save_if_due(self, documents: DocumentReader) -> None:
        """Write the journal every few seconds; `documents` is the reader of the documents that are added."""
        if time.monotonic() - self._saved_s < JOURNAL_EVERY_S:
            return
        point = ResumePoint(
            num_documents=self._num_documents,
            first_val=self._first_val,
            position=self.read_position(documents),
            counts=self.counts,
            writers={split: writer.state() for split, writer in self._writers.items()},
        )
        write_journal(self._folder, point)
        self._saved_s = time.monotonic()

    def read_position(self, documents: DocumentReader) -> ReadPosition:
        """Return the last file from which reading can resume, or the first file of all.

        From such a file on, the hash alone must choose each split. `split_documents` may hold back a document until the
        first one of the val split, and yields it right after that one. From there on, its order is that of reading.
        """
        position = documents.last_position_before(self._num_documents)
        if self._in_order:
            return position
        is_by_hash = self._first_val is not None and position.num_documents >= self._first_val + 2
        return position if is_by_hash else ReadPosition()

    def close(self) -> dict[str, SplitInfo]:
        """Write the last shards and the indices, and return the record of each split."""
        return {split: writer.close() for split, writer in self._writers.items()}

    def __enter__(self) -> "CorpusWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        for writer in self._writers.values():
            writer.abandon()

    def _remove_leftovers(self, point: ResumePoint) -> None:
        """Remove files that were written after the point, and temporary files."""
        kept = {TOKENIZER, JOURNAL}
        for state in point.writers.values():
            kept |= {shard.name for shard in state.shards}
            kept |= {state.open_shard.name} if state.open_shard else set()
        for path in self._folder.iterdir():
            if path.name not in kept:
                path.unlink()
