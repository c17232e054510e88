"""Ranks that load a checkpoint and count the bytes that they read of each file."""

import errno
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PosixPath
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from fsspec.implementations.local import LocalFileSystem
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.schema import Config, ParallelConfig, TrainConfig
from foretrain.parallel.groups import destroy_groups
from foretrain.trainer.build import build_engine
from foretrain.trainer.checkpoint import storage
from foretrain.trainer.checkpoint.boxes import Box
from foretrain.trainer.checkpoint.checksums import DamagedError
from foretrain.trainer.checkpoint.loading import load
from foretrain.trainer.checkpoint.parts import parts_to_read
from foretrain.trainer.checkpoint.reading import node
from foretrain.trainer.checkpoint.reading.node import Node
from foretrain.trainer.checkpoint.remote.path import RemotePath
from foretrain.trainer.checkpoint.storage import expect_no_messages
from foretrain.trainer.state import ModelState
from tests.parallel.workers import gpt2_model
from tests.trainer.checkpoint.workers import NUM_BEFORE, groups_of, save, train


@dataclass(frozen=True)
class Read:
    """Neighbouring bytes of a file that were read at once."""

    file: str
    first: int
    stop: int


Need = tuple[str, Box]
"""The name of a state in a checkpoint, and the box of it that a rank needs."""


@dataclass(frozen=True)
class Load:
    """What one rank did to load a checkpoint."""

    needs: list[Need]
    reads: list[Read]


def config(parallel: ParallelConfig) -> Config:
    """A model whose checkpoint has 11 MB, so that there is something to share out."""
    model = replace(gpt2_model(), num_layers=2, d_model=192, vocab_size=3000)
    train = TrainConfig(global_batch_size=8, micro_batch_size=2)
    return Config(model=model, parallel=parallel, train=train, optimizer=OptimizerConfig(lr=1e-2))


def save_trained(config: Config, folder: Path) -> Path:
    """Save the state after one step, so that no moment is 0. Returns the checkpoint."""
    engine, state = build_engine(config, groups_of(config))
    train(engine, config, range(1))
    path: Path = save(folder, state, config)
    destroy_groups()
    return path


def load_counted(config: Config, checkpoints: Sequence[Path]) -> list[Load]:
    """Load each checkpoint, and check the values that were loaded."""
    _, state = build_engine(config, groups_of(config), is_loaded=True)
    found = []
    for path in checkpoints:
        reads: list[Read] = []
        load(CountedPath(path, reads), state, NUM_BEFORE)
        check_values(state, path)
        found.append(Load(needs_of(state), reads))
    destroy_groups()
    return found


def load_with_torch(config: Config, checkpoints: Sequence[Path]) -> list[Load]:
    """The same, by the code that reads the tensors of other versions of torch: complete ones, and some bytes twice."""
    storage.place_of_elements = lambda sizes, num_bytes: None
    return load_counted(config, checkpoints)


def load_shared(config: Config, checkpoints: Sequence[Path], hosts: Sequence[str] = ()) -> list[Load]:
    """The same from a server, as which fsspec shows the folders. `hosts`: the machine of each rank; (): one for all."""
    groups = groups_of(config)
    if hosts:
        node.host_name = lambda: hosts[groups.rank]
    _, state = build_engine(config, groups, is_loaded=True)
    reads = count_requests()
    found = []
    for path in checkpoints:
        reads.clear()
        load(on_server(path), state, NUM_BEFORE)
        check_values(state, path)
        found.append(Load(needs_of(state), [*reads]))
    destroy_groups()
    return found


def load_alone(config: Config, checkpoints: Sequence[Path]) -> list[Load]:
    """The same, but each rank reads for itself all that it needs."""
    Node.that_shares = lambda folder, groups: Node()  # type: ignore[method-assign]
    return load_shared(config, checkpoints)


def load_damaged(config: Config, checkpoints: Sequence[Path]) -> list[str]:
    """What is wrong with each checkpoint, on a server, as the load says it."""
    _, state = build_engine(config, groups_of(config), is_loaded=True)
    found = []
    for path in checkpoints:
        try:
            load(on_server(path), state, NUM_BEFORE)
        except DamagedError as error:
            found.append(str(error))
        else:
            found.append("")
            check_values(state, path)
    destroy_groups()
    return found


def load_what_one_rank_may_not_read(config: Config, checkpoint: Path, rank: int, file: str) -> str:
    """The error of a load if a rank may not read a file."""
    groups = groups_of(config)
    _, state = build_engine(config, groups, is_loaded=True)
    count_requests(forbidden=file if groups.rank == rank else "")
    try:
        load(on_server(checkpoint), state, NUM_BEFORE)
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        destroy_groups()
    return ""


def on_server(folder: Path) -> RemotePath:
    """A folder of this machine as that of a server of fsspec."""
    return RemotePath(f"file://{folder}")


def count_requests(forbidden: str = "") -> list[Read]:
    """A list to which every request for the content of a file adds itself. `forbidden`: URLs with it are refused."""
    reads: list[Read] = []
    original = LocalFileSystem.cat_file

    def cat_file(self: LocalFileSystem, path: str, start: int | None = None, end: int | None = None) -> bytes:
        if forbidden and forbidden in path:
            raise PermissionError(errno.EACCES, "you may not read this", path)
        content: bytes = original(self, path, start, end)
        reads.append(Read(path.rpartition("/")[2], start or 0, (start or 0) + len(content)))
        return content

    LocalFileSystem.cat_file = cat_file
    return reads


def needs_of(state: ModelState) -> list[Need]:
    """What a rank needs of a checkpoint."""
    return [(part.index.fqn, part.box) for part in parts_to_read(state)]


def check_values(state: ModelState, checkpoint: Path) -> None:
    """Check that what was loaded is what torch's own reader finds in the checkpoint."""
    expect_no_messages()
    reader = FileSystemReader(checkpoint)
    tensors: dict[str, Any] = {}
    for name, stored in reader.read_metadata().state_dict_metadata.items():
        assert isinstance(stored, TensorStorageMetadata)
        tensors[name] = torch.full(stored.size, torch.nan)
    dcp.load(tensors, storage_reader=reader, no_dist=True)
    for part in parts_to_read(state):
        assert part.values.equal(tensors[part.index.fqn][slices(part.box)]), part.index.fqn


def slices(box: Box) -> tuple[slice, ...]:
    """A box as an index of a tensor."""
    return tuple(slice(offset, offset + size) for offset, size in zip(box.offsets, box.sizes, strict=True))


class CountedPath(PosixPath):
    """A file or folder that notes in `reads` all that is read."""

    reads: list[Read]

    def __new__(cls, path: Path, reads: list[Read]) -> "CountedPath":
        made: CountedPath = super().__new__(cls, path)
        made.reads = reads
        return made

    def __truediv__(self, name: Any) -> "CountedPath":
        return CountedPath(Path(self) / name, self.reads)

    def open(self, mode: str = "r", buffering: int = -1, *args: Any, **options: Any) -> Any:
        assert mode == "rb"
        file = CountedFile(self, self.reads)
        return file if buffering == 0 else io.BufferedReader(file)

    def read_bytes(self) -> bytes:
        with self.open("rb") as file:
            content: bytes = file.read()
            return content


class CountedFile(io.RawIOBase):
    """A file that notes what is read."""

    def __init__(self, path: Path, reads: list[Read]) -> None:
        self._file = io.FileIO(str(path))
        self._name, self._reads = path.name, reads

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        first = self._file.tell()
        num_bytes = self._file.readinto(buffer)
        self._reads.append(Read(self._name, first, first + num_bytes))
        return num_bytes

    def close(self) -> None:
        self._file.close()
        super().close()
