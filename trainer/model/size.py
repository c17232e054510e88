"""The size of a model as laws of the loss know it: its parameters, and the FLOPs of training on a token. No tensors.

Two numbers of parameters are in use, and laws that were fitted to one do not hold for the other (arXiv 2406.12907):

- in all: every parameter. A tied head is the token embedding, and counts once (arXiv 2203.15556).
- without embeddings: those of the blocks and of the final norm. The token and the position embedding do not count, nor
  does the matrix that makes logits, tied or not (arXiv 2001.08361).

The FLOPs are those of the matrix products, forward and backward: of every matrix, the head's too, and of attention.
Attention counts all of its scores, although causal kernels compute about half of them, and as if a sample were one
document. Recomputation, embedding look-ups, norms, softmax and the optimizer do not count.
"""

from dataclasses import dataclass
from typing import Self

from foretrain.configs.model import ModelConfig
from foretrain.trainer.model.table import flops_per_token, num_params


@dataclass(frozen=True)
class ModelSize:
    """Parameters and FLOPs of a model."""

    num_params: int
    """Parameters in all."""
    num_params_without_embeddings: int
    flops_per_token: int
    """FLOPs of training on one token."""

    @classmethod
    def of(cls, model: ModelConfig) -> Self:
        """The size of a model, from its parameter table. Raises ValueError if `model.vocab_size` is not set."""
        return cls(num_params(model), num_params(model, embeddings=False), round(flops_per_token(model)))

    def flops(self, num_tokens: int) -> int:
        """FLOPs of training on `num_tokens` tokens."""
        return self.flops_per_token * num_tokens

    def flops_6nd(self, num_tokens: int) -> int:
        """The estimate 6 N D of these FLOPs, with all parameters as N."""
        return 6 * self.num_params * num_tokens
