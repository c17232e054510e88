"""Write all splits of a corpus at once, and keep its journal: after a stop, the same documents go on where it says."""

import time
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from foretrain.data_pipeline.corpus.manifest import SPLITS, TOKENIZER, SplitInfo
from foretrain.data_pipeline.corpus.shard_writer import SplitWriter
from foretrain.data_pipeline.prepare.documents import Documents, Mark
from foretrain.data_pipeline.prepare.encode import EncodedDocument
from foretrain.data_pipeline.prepare.journal import JOURNAL, Point, write_journal

JOURNAL_EVERY_S = 10.0
"""At most so much work is lost where a run is killed."""


class CorpusWriter:
    """Goes on from a point. To be used as a context, so that no file stays open when it is left in the middle.

    Raises CorpusError where the folder does not hold what the point tells of.
    """

    def __init__(self, folder: Path, point: Point, *, block_bytes: int, shard_tokens: int) -> None:
        self._folder = folder
        self._num_documents, self._first_val = point.num_documents, point.first_val
        self.train_counts: npt.NDArray[np.int64] = point.train_counts.copy()
        """Of each token in the train split; shape (vocab_size,)."""
        self._remove_leftovers(point)
        self._writers = {
            split: SplitWriter(
                folder, split, block_bytes=block_bytes, shard_tokens=shard_tokens, state=point.writers.get(split)
            )
            for split in SPLITS
        }
        self._saved_s = time.monotonic()

    def add(self, document: EncodedDocument) -> None:
        """Append the next document."""
        self._writers[document.split].add(document.tokens, document.num_text_bytes)
        if document.split == "train":
            np.add.at(self.train_counts, document.tokens, 1)
        elif self._first_val is None:
            self._first_val = self._num_documents
        self._num_documents += 1

    def save_if_due(self, documents: Documents) -> None:
        """Write the journal every few seconds; `documents` are those that are being read."""
        if time.monotonic() - self._saved_s < JOURNAL_EVERY_S:
            return
        point = Point(
            num_documents=self._num_documents,
            first_val=self._first_val,
            mark=self._mark(documents),
            train_counts=self.train_counts,
            writers={split: writer.state() for split, writer in self._writers.items()},
        )
        write_journal(self._folder, point)
        self._saved_s = time.monotonic()

    def close(self) -> dict[str, SplitInfo]:
        """Write what is left, and return the record of each split."""
        return {split: writer.close() for split, writer in self._writers.items()}

    def __enter__(self) -> "CorpusWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for writer in self._writers.values():
            writer.abandon()

    def _mark(self, documents: Documents) -> Mark:
        """The last file to begin from: one before which the splits are settled, else the first.

        The document that is held back for want of a val split (see split_documents) comes right after the first of val,
        and from there on documents are written in the order in which they are read.
        """
        mark = documents.mark_before(self._num_documents)
        settled = self._first_val is not None and mark.num_documents >= self._first_val + 2
        return mark if settled else Mark()

    def _remove_leftovers(self, point: Point) -> None:
        """Remove what was written after the point, or only in part."""
        kept = {TOKENIZER, JOURNAL}
        for state in point.writers.values():
            kept |= {shard.name for shard in state.shards}
            kept |= {state.open_shard.name} if state.open_shard else set()
        for path in self._folder.iterdir():
            if path.name not in kept:
                path.unlink()
