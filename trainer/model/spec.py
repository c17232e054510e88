"""One parameter of a model: its name, role, named axes, global shape and initial values. No tensors, no torch.

Matrices are (out, in). Axes: vocab, embed, heads, kv, ffn, head_dim, position.
"""

from dataclasses import dataclass, replace
from math import prod
from typing import Literal

SHARDED_AXES = frozenset({"vocab", "heads", "kv", "ffn"})
"""Axes that tensor parallelism shards; a parameter has at most one of them."""


Role = Literal["embedding", "hidden", "residual", "output", "gain", "bias"]
"""What a parameter does: it looks a vector up; is a matrix inside a block, or one that writes into the residual stream;
makes logits; scales what a norm returns; is added."""


@dataclass(frozen=True)
class Scale:
    """What multiplies a parameter's learning rate, epsilon and weight decay."""

    lr: float = 1.0
    eps: float = 1.0
    weight_decay: float = 1.0


@dataclass(frozen=True)
class Param:
    """One parameter of the full model, whatever the layout."""

    name: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    """Global shape."""
    role: Role
    std: float = 0.0
    """Standard deviation of the normal distribution of initial values; 0: constant."""
    fill: float = 0.0
    """Initial constant if std is 0."""
    scale: Scale = Scale()
    multiplier: float = 1.0
    """What the input of a matrix, or the vectors of an embedding, are multiplied by."""
    tensor: str = ""
    """Name of the tensor of a module that several parameters share, and so their factors; "": it has its own."""
    block: int | None = None
    """Number of its block; None: it is outside the blocks."""
    has_gradient: bool = True
    """False: the loss does not depend on it, so that its gradient is rounding noise."""

    def within(self, module: str, block: int | None = None) -> "Param":
        """The parameter of a module as one of a larger module: `module` goes before its names."""
        tensor = f"{module}.{self.tensor}" if self.tensor else ""
        return replace(self, name=f"{module}.{self.name}", tensor=tensor, block=self.block if block is None else block)

    @property
    def in_block(self) -> bool:
        """Whether it belongs to a block, and so repeats with depth."""
        return self.block is not None

    @property
    def name_in_any_block(self) -> str:
        """Its name with * in place of the number of its block: the same for the parameters that repeat with depth."""
        return self.name if self.block is None else self.name.replace(f".{self.block}.", ".*.", 1)

    @property
    def is_token_embedding(self) -> bool:
        """Whether it looks tokens up; a tied head is this matrix too."""
        return self.role == "embedding" and self.axes[0] == "vocab"

    @property
    def reads_residual(self) -> bool:
        """Whether it is a matrix of a block that multiplies the residual stream, behind a norm."""
        return self.in_block and self.role == "hidden" and self.axes[-1] == "embed"

    @property
    def fan_in(self) -> int:
        """Entries that one output sums over; 1 for vectors."""
        return self.shape[1 - self._out] if self.is_matrix else 1

    @property
    def fan_out(self) -> int:
        """Outputs. An embedding is stored the other way round: its outputs are its width."""
        return self.shape[self._out]

    @property
    def _out(self) -> int:
        return 1 if self.role == "embedding" else 0

    @property
    def num_elements(self) -> int:
        """Elements of the full parameter."""
        return prod(self.shape)

    @property
    def is_matrix(self) -> bool:
        """Whether it decays: matrices and embeddings do, gains and biases do not."""
        return len(self.shape) == 2

    @property
    def tp_dim(self) -> int | None:
        """The dimension that tensor parallelism shards; None: replicated."""
        dims = [dim for dim, axis in enumerate(self.axes) if axis in SHARDED_AXES]
        assert len(dims) <= 1, f"{self.name} has two sharded axes"
        return dims[0] if dims else None


def linear(
    name: str,
    axes: tuple[str, str],
    shape: tuple[int, int],
    role: Role,
    std: float,
    *,
    bias: bool = False,
    tensor: str = "",
) -> list[Param]:
    """The matrix (out, in) of a linear layer, and its bias. `tensor` names the layer that it shares with others."""
    weight = Param(f"{name}.weight", axes, shape, role, std, tensor=f"{tensor}.weight" if tensor else "")
    if not bias:
        return [weight]
    return [weight, Param(f"{name}.bias", axes[:1], shape[:1], "bias", tensor=f"{tensor}.bias" if tensor else "")]


def gain(name: str, axis: str, size: int, *, bias: bool = False) -> list[Param]:
    """The gain of a norm, and its bias."""
    found = [Param(f"{name}.weight", (axis,), (size,), "gain", fill=1.0)]
    return [*found, Param(f"{name}.bias", (axis,), (size,), "bias")] if bias else found
