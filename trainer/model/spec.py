"""The parameter table: every parameter of a model by name, named axes, global shape and initial law. No tensors.

Everything else is read off this table: counts, what tensor parallelism cuts, initial weights, what decays, what a
checkpoint holds. Matrices are (out, in). Axes: vocab, embed, heads, kv, ffn, head_dim, position.
"""

from dataclasses import dataclass
from math import prod, sqrt
from typing import Literal

from foretrain.configs.model import ModelConfig, Shape

SHARDED_AXES = frozenset({"vocab", "heads", "kv", "ffn"})
"""Axes that tensor parallelism cuts; a parameter has at most one of them."""


Role = Literal["embedding", "hidden", "residual", "output", "gain", "bias"]
"""What a parameter does: looks a vector up; is a matrix inside a block, or one that writes into the residual stream;
makes logits; scales what a norm gives; is added."""


@dataclass(frozen=True)
class Scale:
    """What multiplies a parameter's learning rate, epsilon and weight decay."""

    lr: float = 1.0
    eps: float = 1.0
    weight_decay: float = 1.0


@dataclass(frozen=True)
class Param:
    """One parameter of the whole model, whatever the layout."""

    name: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    """Global shape."""
    role: Role
    std: float = 0.0
    """Standard deviation of the initial normal law; 0: constant."""
    fill: float = 0.0
    """Initial constant where std is 0."""
    scale: Scale = Scale()

    @property
    def in_block(self) -> bool:
        """Whether it belongs to a block, and so repeats with depth."""
        return self.name.startswith("blocks.")

    @property
    def fan_in(self) -> int:
        """Entries that one output sums over; 1 of vectors."""
        return self.shape[1 - self._out] if self.is_matrix else 1

    @property
    def fan_out(self) -> int:
        """Outputs: of an embedding, which is stored the other way round, its width."""
        return self.shape[self._out]

    @property
    def _out(self) -> int:
        return 1 if self.role == "embedding" else 0

    @property
    def num_elements(self) -> int:
        """Elements of the whole parameter."""
        return prod(self.shape)

    @property
    def is_matrix(self) -> bool:
        """Whether it decays: matrices and embeddings do, gains and biases do not."""
        return len(self.shape) == 2

    @property
    def tp_dim(self) -> int | None:
        """The dimension that tensor parallelism cuts; None: replicated."""
        dims = [dim for dim, axis in enumerate(self.axes) if axis in SHARDED_AXES]
        assert len(dims) <= 1, f"{self.name} has two sharded axes"
        return dims[0] if dims else None


def param_table(model: ModelConfig) -> list[Param]:
    """All parameters of `model`, in the order in which data meets them; a tied head is not listed again."""
    shape = Shape.of(model)
    size = (shape.vocab_size, shape.d_model)
    embed_std = model.init_std if model.embed_init_std is None else model.embed_init_std
    table = [Param("embed.weight", ("vocab", "embed"), size, "embedding", embed_std)]
    if model.position == "learned":
        size = (shape.seq_len, shape.d_model)
        table.append(Param("position.weight", ("position", "embed"), size, "embedding", embed_std))
    for layer in range(shape.num_layers):
        table += block_table(model, layer)
    table += _norm("final_norm", model, shape.d_model)
    if not model.tie_embeddings:
        size = (shape.vocab_size, shape.d_model)
        std = model.init_std if model.head_init_std is None else model.head_init_std
        table.append(Param("head.weight", ("vocab", "embed"), size, "output", std))
    return table


def block_table(model: ModelConfig, layer: int) -> list[Param]:
    """The parameters of one block."""
    shape = Shape.of(model)
    heads, kv = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    into: _Law = ("hidden", model.init_std)
    back: _Law = ("residual", model.init_std / sqrt(2 * shape.num_layers))
    up = ("gate", "up") if model.activation == "swiglu" else ("up",)
    prefix = f"blocks.{layer}"

    table = _norm(f"{prefix}.attn_norm", model, shape.d_model)
    for name, axis, size in (("q", "heads", heads), ("k", "kv", kv), ("v", "kv", kv)):
        table += _linear(f"{prefix}.attn.{name}", (axis, "embed"), (size, shape.d_model), into, model.bias)
    if model.qk_norm:
        for name in ("q_norm", "k_norm"):
            table.append(Param(f"{prefix}.attn.{name}.weight", ("head_dim",), (shape.head_dim,), "gain", fill=1.0))
    table += _linear(f"{prefix}.attn.out", ("embed", "heads"), (shape.d_model, heads), back, model.bias)
    table += _norm(f"{prefix}.mlp_norm", model, shape.d_model)
    for name in up:
        table += _linear(f"{prefix}.mlp.{name}", ("ffn", "embed"), (shape.d_ff, shape.d_model), into, model.bias)
    table += _linear(f"{prefix}.mlp.down", ("embed", "ffn"), (shape.d_model, shape.d_ff), back, model.bias)
    return table


_Law = tuple[Role, float]
"""Role and initial standard deviation."""


def _linear(name: str, axes: tuple[str, str], shape: tuple[int, int], law: _Law, bias: bool) -> list[Param]:
    weight = Param(f"{name}.weight", axes, shape, *law)
    return [weight, Param(f"{name}.bias", axes[:1], shape[:1], "bias")] if bias else [weight]


def _norm(name: str, model: ModelConfig, width: int) -> list[Param]:
    gain = Param(f"{name}.weight", ("embed",), (width,), "gain", fill=1.0)
    if model.norm == "layernorm" and model.bias:
        return [gain, Param(f"{name}.bias", ("embed",), (width,), "bias")]
    return [gain]


def num_params(model: ModelConfig, embeddings: bool = True) -> int:
    """Parameters of `model`; without `embeddings`, those of token and position embeddings and the head are left out."""
    outside = ("embed.", "position.", "head.")
    return sum(p.num_elements for p in param_table(model) if embeddings or not p.name.startswith(outside))


def flops_per_token(model: ModelConfig, causal: bool = False) -> float:
    """FLOPs of training on one token: 6 N + 12 L A s, with A = num_heads * head_dim (arXiv 2204.02311, appendix B).

    N counts every matrix that multiplies an activation, the head too (tied or not), and no embedding look-up.
    Attention's scores and averages take 12 L A s; `causal` counts only the half below the diagonal.
    """
    shape = Shape.of(model)
    matrices = sum(p.num_elements for p in param_table(model) if p.is_matrix and p.name.startswith("blocks."))
    matrices += shape.vocab_size * shape.d_model
    attention = 12 * shape.num_layers * shape.num_heads * shape.head_dim * shape.seq_len
    return 6 * matrices + attention * (0.5 if causal else 1.0)
