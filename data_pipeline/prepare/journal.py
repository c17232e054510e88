"""How far an unfinished corpus has come: one small file beside its shards, always whole, that says where to go on."""

import dataclasses
import io
import json
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from foretrain.data_pipeline.corpus.manifest import ShardInfo
from foretrain.data_pipeline.corpus.shard_writer import WriterState
from foretrain.data_pipeline.prepare.documents import Mark

JOURNAL = "journal.npz"
ARRAYS = ("rows", "block_lens", "block_tokens")


@dataclass(frozen=True)
class Point:
    """A place between two documents, from which `prepare` can go on."""

    num_documents: int
    """Written, of all splits."""
    first_val: int | None
    """How many of them came before the first of the val split."""
    mark: Mark
    """Where to begin to read."""
    train_counts: npt.NDArray[np.int64]
    """Of each token in the train split; shape (vocab_size,)."""
    writers: dict[str, WriterState] = field(default_factory=dict)
    """By split; empty at the start."""

    @classmethod
    def start(cls, vocab_size: int) -> "Point":
        """The place before all documents."""
        return cls(0, None, Mark(), np.zeros(vocab_size, dtype=np.int64))


def write_journal(folder: Path, point: Point) -> None:
    """Replace the journal, in one step, once the new one is safe on the disk."""
    record: dict[str, Any] = {
        "num_documents": point.num_documents,
        "first_val": point.first_val,
        "mark": dataclasses.asdict(point.mark),
        "writers": {split: _record(state) for split, state in point.writers.items()},
    }
    arrays = {f"{split}/{name}": getattr(state, name) for split, state in point.writers.items() for name in ARRAYS}
    packed = io.BytesIO()
    text = np.frombuffer(json.dumps(record).encode(), dtype=np.uint8)
    np.savez(packed, record=text, train_counts=point.train_counts, **arrays)
    partial = folder / (JOURNAL + ".partial")
    with partial.open("wb") as file:
        file.write(packed.getbuffer())
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / JOURNAL)


def read_journal(folder: Path) -> Point | None:
    """Return the point that the journal tells of; None where there is none, or it is damaged."""
    try:
        with np.load(folder / JOURNAL, allow_pickle=False) as arrays:
            record = json.loads(arrays["record"].tobytes())
            writers = {
                split: _state(fields, {name: arrays[f"{split}/{name}"] for name in ARRAYS})
                for split, fields in record["writers"].items()
            }
            return Point(
                record["num_documents"], record["first_val"], Mark(**record["mark"]), arrays["train_counts"], writers
            )
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None


def _record(state: WriterState) -> dict[str, Any]:
    return {
        "shards": [dataclasses.asdict(shard) for shard in state.shards],
        "open_shard": None if state.open_shard is None else dataclasses.asdict(state.open_shard),
        "num_text_bytes": state.num_text_bytes,
    }


def _state(fields: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> WriterState:
    return WriterState(
        shards=[ShardInfo(**shard) for shard in fields["shards"]],
        open_shard=None if fields["open_shard"] is None else ShardInfo(**fields["open_shard"]),
        num_text_bytes=fields["num_text_bytes"],
        **arrays,
    )
