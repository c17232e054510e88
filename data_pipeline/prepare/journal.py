"""The journal of an unfinished corpus: a file beside its shards, replaced in one step, from which `prepare` resumes."""

import dataclasses
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from foretrain.data_pipeline.corpus.manifest import SPLITS, ShardInfo
from foretrain.data_pipeline.corpus.shard_writer import WriterState
from foretrain.data_pipeline.prepare.documents import ReadPosition
from foretrain.files import write_atomically

JOURNAL = "journal.npz"
ARRAYS = ("rows", "block_lens", "block_tokens")
COUNTS = "counts"


@dataclass(frozen=True)
class ResumePoint:
    """The state of `prepare` between two documents, from which it can resume."""

    num_documents: int
    """Number of documents written, of all splits."""
    first_val: int | None
    """Number of documents before the first one of the val split."""
    position: ReadPosition
    """Position from which the input is read."""
    counts: dict[str, npt.NDArray[np.int64]]
    """Number of each token in each split; shape (vocab_size,)."""
    writers: dict[str, WriterState] = field(default_factory=dict)
    """State of each split's writer; empty at the start."""

    @classmethod
    def start(cls, vocab_size: int, splits: Sequence[str] = SPLITS) -> "ResumePoint":
        """Return the point before all documents."""
        return cls(0, None, ReadPosition(), {split: np.zeros(vocab_size, dtype=np.int64) for split in splits})


def write_journal(folder: Path, point: ResumePoint) -> None:
    """Replace the journal in one step, after the new one is safe on the disk."""
    record = {
        "num_documents": point.num_documents,
        "first_val": point.first_val,
        "mark": dataclasses.asdict(point.position),
        "writers": {split: _record_of(state) for split, state in point.writers.items()},
    }
    arrays = {f"{split}/{name}": getattr(state, name) for split, state in point.writers.items() for name in ARRAYS}
    arrays |= {f"{split}/{COUNTS}": counts_V for split, counts_V in point.counts.items()}
    packed = io.BytesIO()
    text = np.frombuffer(json.dumps(record).encode(), dtype=np.uint8)
    np.savez(packed, record=text, **arrays)
    write_atomically(folder / JOURNAL, packed.getvalue(), durable=True)


def read_journal(folder: Path) -> ResumePoint | None:
    """Return the point in the journal, or None if there is no journal or it is damaged."""
    try:
        with np.load(folder / JOURNAL, allow_pickle=False) as arrays:
            record = json.loads(arrays["record"].tobytes())
            writers = {
                split: _state_of(fields, {name: arrays[f"{split}/{name}"] for name in ARRAYS})
                for split, fields in record["writers"].items()
            }
            position = ReadPosition.from_record(record["mark"])
            counts = {split: arrays[f"{split}/{COUNTS}"] for split in writers}
            return ResumePoint(record["num_documents"], record["first_val"], position, counts, writers)
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None


def _record_of(state: WriterState) -> dict[str, Any]:
    return {
        "shards": [dataclasses.asdict(shard) for shard in state.shards],
        "open_shard": None if state.open_shard is None else dataclasses.asdict(state.open_shard),
        "num_text_bytes": state.num_text_bytes,
    }


def _state_of(fields: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> WriterState:
    return WriterState(
        shards=[ShardInfo(**shard) for shard in fields["shards"]],
        open_shard=None if fields["open_shard"] is None else ShardInfo(**fields["open_shard"]),
        num_text_bytes=fields["num_text_bytes"],
        **arrays,
    )
