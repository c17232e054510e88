"""The size of a model as laws of the loss know it: its parameters, and the FLOPs of training on a token. No tensors."""

from dataclasses import dataclass
from typing import Self

from foretrain.configs.model import ModelConfig
from foretrain.trainer.model.table import flops_per_token, num_params


@dataclass(frozen=True)
class ModelSize:
    """Parameters and FLOPs of a model. Every cost of a ladder follows from these numbers."""

    num_params: int
    """Parameters in all: a tied head is the token embedding, and counts once (arXiv 2203.15556)."""
    num_params_without_embeddings: int
    """Parameters of the blocks and of the final norm (arXiv 2001.08361)."""
    flops_per_token: int
    """FLOPs of training on one token: of all matrix products, the head's and all attention scores too."""

    @classmethod
    def of(cls, model: ModelConfig) -> Self:
        """The size of a model. Raises ValueError if `model.vocab_size` is not set."""
        return cls(num_params(model), num_params(model, embeddings=False), round(flops_per_token(model)))
