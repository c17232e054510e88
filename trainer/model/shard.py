"""This rank's shards of the parameters of the table, and the tensors of modules that hold them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from foretrain.trainer.model.spec import Param

Held = tuple[str, nn.Parameter, slice]
"""The name of a parameter of the table, the module's tensor that holds this rank's shard of it, and the rows there."""


@runtime_checkable
class HoldsParams(Protocol):
    """A module whose tensors are not the parameters of the table that their names say, or hold several of them.

    Matrices that multiply the same input are one tensor of a module (one matrix product, one gather of the sequence),
    and separate parameters in the table.
    """

    def held(self, name: str) -> Iterator[Held]:
        """Each parameter of the table that the module holds; `name` is the module's own."""


def beside(name: str, other: str) -> str:
    """The name `other` of a module that has the same parent as the module `name`."""
    return f"{name.rpartition('.')[0]}.{other}"


def held_by(module: nn.Module, name: str) -> Iterator[Held]:
    """Each parameter of the table that a module and its children hold.

    A tensor has the name of its attribute, unless its module declares otherwise (`HoldsParams`).
    """
    if isinstance(module, HoldsParams):
        yield from module.held(name)
        return
    for own, tensor in module.named_parameters(recurse=False):
        yield f"{name}.{own}", tensor, slice(0, len(tensor))
    for child_name, child in module.named_children():
        yield from held_by(child, f"{name}.{child_name}")


@dataclass(frozen=True, eq=False)
class ParamShard:
    """This rank's shard of one parameter of the table: rows `rows` of the module's tensor `tensor`.

    Along dimension `tp_dim` of the parameter it is the part `span`. If `tp_dim` is None, every tensor-parallel rank
    holds the full parameter, and `span` is all its rows.
    """

    param: Param
    tensor: nn.Parameter
    rows: slice
    tp_dim: int | None
    span: slice
    is_copy: bool = False
    """Whether it is the second copy of a tied embedding; the first stage's copy counts in norms and checkpoints."""

    @classmethod
    def of(cls, param: Param, tensor: nn.Parameter, rows: slice, tp: tuple[int, int] = (0, 1)) -> "ParamShard":
        """The shard on tensor-parallel rank tp[0] of tp[1]. megatron-core's mark on a tensor says that it is sharded.

        Rows that pad the vocabulary are in the tensor, and not in `rows`: the last ranks may hold fewer, or none.
        """
        if param.tp_dim is None or not getattr(tensor, "tensor_model_parallel", False):
            return cls(param, tensor, rows, None, slice(0, param.shape[0]))
        rank, num_ranks = tp
        size = param.shape[param.tp_dim]
        part = len(tensor) if param.axes[param.tp_dim] == "vocab" else size // num_ranks
        start = min(rank * part, size)
        return cls(param, tensor, rows, param.tp_dim, slice(start, min(start + part, size)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the shard."""
        shape = list(self.param.shape)
        shape[self.tp_dim or 0] = self.span.stop - self.span.start
        return tuple(shape)

    @property
    def values(self) -> Tensor:
        """The elements that the module computes with, a view; under ZeRO-3 there are none between uses."""
        return self.tensor[self.rows]
