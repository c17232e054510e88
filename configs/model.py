"""The `model` section of a config, and the sizes that follow from it."""

from dataclasses import dataclass
from typing import Literal

from foretrain.configs.checks import require, require_not_negative, require_positive
from foretrain.configs.fields import setting


@dataclass
class ModelConfig:
    """A decoder-only transformer with pre-norm blocks."""

    name: str = setting("gpt", changes_curve=False)
    """A label for reports. It has no effect."""
    num_layers: int = 4
    """Transformer blocks."""
    d_model: int = 128
    """Width of the residual stream."""
    num_heads: int = 4
    """Query heads of one block."""
    num_kv_heads: int | None = None
    """Key and value heads; None: num_heads. For grouped-query attention, a smaller number that divides num_heads."""
    head_dim: int | None = None
    """Width of one head; None: d_model / num_heads."""
    d_ff: int | None = None
    """Hidden width of the feed-forward layer; None: 4 * d_model."""
    vocab_size: int | None = None
    """Rows of the embedding; None: the vocabulary of the data's tokenizer."""
    attention: str = setting("grouped_query", since="0.2.0")
    """Kind of attention of every block: "grouped_query", or one that a plugin adds."""
    feed_forward: str = setting("dense", since="0.2.0")
    """Kind of feed-forward layer of every block: "dense", or one that a plugin adds."""
    seq_len: int = 256
    """Tokens of one sample, and the number of positions if `position` is learned."""
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    """Normalisation before each attention, each feed-forward layer and the head."""
    norm_eps: float = 1e-5
    """Added to the variance (mean square) inside the norms."""
    position: Literal["rope", "learned"] = "rope"
    """rope: rotary embedding of queries and keys. learned: a learned vector for each position."""
    rope_theta: float = 10000.0
    """Base of the rotary frequencies."""
    activation: Literal["swiglu", "gelu", "gelu_tanh"] = "swiglu"
    """swiglu: silu(gate) * up, three matrices; gelu: exact, two matrices; gelu_tanh: GPT-2's approximation."""
    bias: bool = False
    """Whether linear layers in blocks, and layernorms, have biases."""
    tie_embeddings: bool = False
    """Whether the head uses the matrix of the embedding."""
    qk_norm: bool = False
    """Whether queries and keys are normalised by RMSNorm over head_dim, before rotation."""
    init_std: float = 0.02
    """Initial standard deviation of matrices; those that write into the residual stream get init_std / sqrt(2 L),
    where L is num_layers."""
    embed_init_std: float | None = None
    """Initial standard deviation of the embeddings of tokens and positions; None: init_std."""
    head_init_std: float | None = None
    """Initial standard deviation of a head that is not tied; None: init_std. muP advises 0: the initial prediction is
    then uniform."""

    def __post_init__(self) -> None:
        require_positive(
            num_layers=self.num_layers,
            d_model=self.d_model,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            d_ff=self.d_ff,
            vocab_size=self.vocab_size,
            seq_len=self.seq_len,
            norm_eps=self.norm_eps,
            rope_theta=self.rope_theta,
            init_std=self.init_std,
        )
        require_not_negative(self, "embed_init_std", "head_init_std")
        require(
            self.head_init_std is None or not self.tie_embeddings,
            "head_init_std needs an untied head: unset it, or set tie_embeddings=false",
        )
        require(
            self.head_dim is not None or self.d_model % self.num_heads == 0,
            f"d_model = {self.d_model} is not a multiple of num_heads = {self.num_heads}: change one, or set head_dim",
        )
        kv, head_dim = self.block_shape.num_kv_heads, self.block_shape.head_dim
        require(
            self.num_heads % kv == 0,
            f"num_heads = {self.num_heads} is not a multiple of num_kv_heads = {kv}: change one",
        )
        require(
            self.position != "rope" or head_dim % 2 == 0,
            f"head_dim = {head_dim} is odd, and rotary embeddings rotate pairs: make it even, or set position=learned",
        )

    @property
    def block_shape(self) -> "BlockShape":
        """The sizes of one block. No other place knows the sizes that a config leaves out."""
        return BlockShape(
            d_model=self.d_model,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads or self.num_heads,
            head_dim=self.head_dim or self.d_model // self.num_heads,
            d_ff=self.d_ff or 4 * self.d_model,
        )


@dataclass(frozen=True)
class BlockShape:
    """The sizes of one block, each of them set."""

    d_model: int
    """Width of the residual stream."""
    num_heads: int
    """Query heads."""
    num_kv_heads: int
    """Key and value heads."""
    head_dim: int
    """Width of one head."""
    d_ff: int
    """Hidden width of the feed-forward layer."""


@dataclass(frozen=True)
class Shape(BlockShape):
    """The sizes of a model, each of them set."""

    num_layers: int
    """Transformer blocks."""
    vocab_size: int
    """Rows of the embedding, without the padding of tensor parallelism."""
    seq_len: int
    """Tokens of one sample."""

    @classmethod
    def of(cls, model: ModelConfig) -> "Shape":
        """The shape of `model`. Raises ValueError while vocab_size is not known."""
        if model.vocab_size is None:
            raise ValueError("model.vocab_size is not set, and there is no corpus to take it from: set it")
        return cls(
            **vars(model.block_shape),
            num_layers=model.num_layers,
            vocab_size=model.vocab_size,
            seq_len=model.seq_len,
        )
