"""The files of a checkpoint that torch.distributed.checkpoint writes and reads, with checksums."""

import io
import pickle
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint.filesystem import (
    DEFAULT_SUFFIX,
    FileSystem,
    FileSystemReader,
    FileSystemWriter,
    _StorageInfo,
)
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from foretrain.trainer.checkpoint.checksums import ChecksumReader, ChecksumWriter, read_checked
from foretrain.trainer.checkpoint.frames import Frame, frame_of
from foretrain.trainer.checkpoint.manifest import METADATA
from foretrain.trainer.checkpoint.metadata import read_metadata
from foretrain.trainer.checkpoint.pace import Pace
from foretrain.trainer.checkpoint.parts import WEIGHT
from foretrain.trainer.checkpoint.places import Place
from foretrain.trainer.checkpoint.reading.blocks import read_wanted
from foretrain.trainer.checkpoint.reading.node import Node
from foretrain.trainer.checkpoint.reading.stored import Wanted, place_of_elements

BUFFER_BYTES = 2**16
"""Smaller pieces of a file are joined before they are written."""
PIECE = 2**20
"""Elements of a tensor, 4 bytes each, that are written without a pause."""
_FRAMES: dict[tuple[int, ...], Frame] = {}
"""The frames of tensors of fp32, by their sizes: those of the first save serve all others."""


class ChecksummedFiles(FileSystem):
    """The file system of a checkpoint, for torch.distributed.checkpoint. The paths are of the type Place.

    torch's own class for fsspec copies what it writes, closes what failed as if it were complete, and has no limits of
    time.
    """

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Generator[io.IOBase]:
        """Open a new file ("wb"), or one that was written so ("rb")."""
        if mode != "wb":
            with ChecksumReader(path) as reader:
                yield reader
            return
        with io.BufferedWriter(ChecksumWriter(path), BUFFER_BYTES) as writer:
            yield writer

    def init_path(self, path: Any) -> Any:
        return path

    def concat_path(self, path: Any, suffix: str) -> Any:
        return path / suffix

    def mkdir(self, path: Any) -> None:
        path.mkdir(parents=True, exist_ok=True)

    def exists(self, path: Any) -> bool:
        return bool(path.exists())

    def rename(self, path: Any, new_path: Any) -> None:
        path.rename(new_path)

    def rm_file(self, path: Any) -> None:
        path.unlink()


class NotFiniteError(ValueError):
    """A weight that was to be written is infinite or not a number; the message is the name of the parameter."""


class RankWriter(FileSystemWriter):
    """Writes the files of one rank, without a message to the others: its data, and the metadata of its own parts.

    It refuses weights that are not finite with NotFiniteError. They are looked at when they are written, since that is
    beside training: before the copy, training would wait for it. Without `pace`, it writes as fast as it can.
    """

    def __init__(self, folder: Any, rank: int, pace: Pace | None = None) -> None:
        super().__init__("", sync_files=False)  # each stream waits for the disk when it is closed
        self.fs, self.path = ChecksummedFiles(), folder
        self._rank, self._pace = rank, pace or Pace(1.0)

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        super().set_up_storage_writer(is_coordinator, rank=self._rank, use_collectives=False)

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write all parts into one file, byte for byte as torch.save writes them.

        torch.save itself writes each in dozens of small pieces under Python's lock, for which steps would wait.
        """
        name = f"{plan.storage_data.prefix}0{DEFAULT_SUFFIX}"
        results = []
        with self.fs.create_stream(self.fs.concat_path(self.path, name), "wb") as stream:
            for item in plan.items:
                start = stream.tell()
                key, _, name_of_weight = item.index.fqn.partition(".")
                finite = name_of_weight if key == WEIGHT else None
                _write_tensor(stream, planner.resolve_data(item), self._pace, finite)
                length = stream.tell() - start
                results.append(WriteResult(item.index, length, _StorageInfo(name, start, length)))
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def storage_meta(self) -> StorageMeta:
        """What the metadata says of the folder: a text, since other readers know no Place."""
        return StorageMeta(checkpoint_id=str(self.path), save_id=self.save_id)


def _write_tensor(stream: io.IOBase, tensor: Any, pace: Pace, finite: str | None) -> None:
    """Write a contiguous tensor of fp32 in host memory, with a storage of its own.

    `finite`: the name of the tensor if it must be finite. Raises NotFiniteError if it is not.
    """
    sizes = tuple(tensor.shape)
    frame = _FRAMES.get(sizes)
    if frame is None:
        frame = _FRAMES[sizes] = frame_of(tensor)
    stream.write(frame.before)
    values = tensor.view(-1).numpy()
    for start in range(0, len(values), PIECE):
        elements = values[start : start + PIECE]
        # NumPy, since torch would use the threads of the steps.
        if finite is not None and not (np.isfinite(elements.min()) and np.isfinite(elements.max())):
            raise NotFiniteError(finite)
        stream.write(elements.data.cast("B"))
        pace.pause()
    stream.write(frame.after)


class CheckpointReader(FileSystemReader):
    """Reads of the files of a checkpoint no more than is needed, with the other ranks of `node` if one is given.

    `metadata` are those of the checkpoint, as `metadata.read_metadata` returns them: torch's own reader would run what
    their file names. Without `has_checksums`, an earlier version has written the checkpoint; torch reads its tensors.
    """

    def __init__(
        self, folder: Place, metadata: Metadata, node: Node | None = None, *, has_checksums: bool = True
    ) -> None:
        super().__init__("")
        self.path: Any = folder
        self._metadata, self._has_checksums, self._node = metadata, has_checksums, node or Node()
        self._chunks: dict[MetadataIndex, ChunkStorageMetadata] = {}
        if has_checksums:
            self.fs = ChecksummedFiles()

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        for name, stored in self._metadata.state_dict_metadata.items():
            if isinstance(stored, TensorStorageMetadata) and stored.properties.dtype == torch.float32:
                self._chunks |= {MetadataIndex(name, chunk.offsets): chunk for chunk in stored.chunks}
        return self._metadata

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        wanted: dict[str, list[Wanted]] = {}
        others = []
        for item in plan.items:
            found = self._wanted(item, planner) if self._has_checksums else None
            if found is None:
                others.append(item)
            else:
                wanted.setdefault(self.storage_data[item.storage_index].relative_path, []).append(found)
        read_wanted(self.path, wanted, self._node)
        return super().read_data(LoadPlan(others), planner)

    def _wanted(self, item: ReadItem, planner: LoadPlanner) -> Wanted | None:
        """Where in its file is what an item asks for; None if only torch knows it."""
        stored = self.storage_data[item.storage_index]
        chunk = self._chunks.get(item.storage_index)
        if chunk is None or not chunk.sizes or item.type != LoadItemType.TENSOR:
            return None
        place, target = place_of_elements(chunk.sizes, stored.length), planner.resolve_tensor(item).detach()
        if place is None or target.dtype != torch.float32 or target.stride(-1) != 1:
            return None
        return Wanted.of(stored.offset, stored.offset + place, chunk.sizes, item.storage_offsets, item.lengths, target)


def expect_no_messages() -> None:
    """Ignore warnings of torch that ranks do not talk to each other, and that another rank has written already.

    Each writes and reads by itself. Called before each use, since libraries reset the filters of warnings.
    """
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")
    warnings.filterwarnings("ignore", message="Detected an existing checkpoint")


def rank_metadata(folder: Place, rank: int) -> Place:
    """The file with the metadata of the parts of one rank."""
    return folder / f"__{rank}{METADATA}"


def merge_metadata(folder: Place, num_ranks: int) -> None:
    """Make one file of the metadata of all ranks, from which any reader finds every part."""
    paths = [rank_metadata(folder, rank) for rank in range(num_ranks)]
    merged: Metadata | None = None
    for path in paths:
        metadata = read_metadata(read_checked(path), path, of_one_rank=True)
        if merged is None:
            merged = metadata
            continue
        for name, tensor in metadata.state_dict_metadata.items():
            known = merged.state_dict_metadata.setdefault(name, tensor)
            if known is not tensor:
                known.chunks.extend(tensor.chunks)  # type: ignore[union-attr]
        merged.storage_data.update(metadata.storage_data)
        merged.planner_data.update(metadata.planner_data)
    with ChecksumWriter(folder / METADATA) as file:
        pickle.dump(merged, file)
    for path in paths:
        path.unlink()
