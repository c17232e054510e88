"""The tensors of another library's model, and of which parameters of ours each of them is made. Imports no torch."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class Source:
    """A parameter of our table, and what its elements are multiplied by."""

    name: str
    shape: tuple[int, ...]
    factor: float = 1.0


@dataclass(frozen=True)
class Target:
    """A tensor of another library's model: parameters of ours with the same columns, one below the other."""

    name: str
    shape: tuple[int, ...]
    sources: tuple[Source, ...]
    """None: the tensor is 0, as the bias of a layer that has none in our model."""
    is_transposed: bool = False
    """Whether it is the transpose of what the sources make: GPT-2 stores its matrices (in, out)."""

    @classmethod
    def of(cls, name: str, *sources: Source, is_transposed: bool = False) -> "Target":
        """The tensor that at least one source makes."""
        rows, rest = sum(source.shape[0] for source in sources), sources[0].shape[1:]
        shape = (*rest, rows) if is_transposed else (rows, *rest)
        return cls(name, shape, sources, is_transposed)

    @classmethod
    def zeros(cls, name: str, size: int) -> "Target":
        """A vector of zeros."""
        return cls(name, (size,), ())

    @property
    def num_elements(self) -> int:
        """Elements of the tensor."""
        return prod(self.shape)


def files_of(targets: Iterable[Target], item_bytes: int, max_bytes: int) -> list[list[Target]]:
    """The targets of each file, in their order: no file is larger than `max_bytes`, unless it has one target only."""
    files: list[list[Target]] = []
    size = 0
    for target in targets:
        num_bytes = target.num_elements * item_bytes
        if not files or size + num_bytes > max_bytes:
            files.append([])
            size = 0
        files[-1].append(target)
        size += num_bytes
    return files


def file_names(count: int) -> Iterator[str]:
    """The names that transformers looks for: that of one file, or those of the parts of a model."""
    if count == 1:
        yield "model.safetensors"
        return
    for number in range(1, count + 1):
        yield f"model-{number:05d}-of-{count:05d}.safetensors"
