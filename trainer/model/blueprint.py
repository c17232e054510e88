"""A model as it is built: its shape, its parameters' laws, and the constants that its activations are multiplied by."""

from dataclasses import dataclass

from foretrain.configs.schema import ModelConfig
from foretrain.trainer.model.spec import Param, param_table


@dataclass(frozen=True)
class Multipliers:
    """What is multiplied on the way forward, the same in every block; 1 costs nothing and changes no bit.

    That of a matrix goes on its input, so that a bias is left as it is.
    """

    embed: float = 1.0
    """Of looked-up token embeddings."""
    position: float = 1.0
    """Of learned positions."""
    qkv: float = 1.0
    """Of the matrices of queries, keys and values."""
    attention: float = 1.0
    """Of attention logits, beside 1 / sqrt(head_dim)."""
    out: float = 1.0
    """Of attention's output matrix."""
    up: float = 1.0
    """Of the feed-forward layer's first matrices."""
    down: float = 1.0
    """Of the feed-forward layer's last matrix."""
    residual: float = 1.0
    """Of what attention and the feed-forward layer add to the residual stream."""
    head: float = 1.0
    """Of the head's matrix, tied or not."""


@dataclass(frozen=True)
class Blueprint:
    """What a stage is built from."""

    model: ModelConfig
    table: tuple[Param, ...]
    multipliers: Multipliers = Multipliers()

    @classmethod
    def of(cls, model: ModelConfig) -> "Blueprint":
        """The model in the standard parametrization."""
        return cls(model, tuple(param_table(model)))
