"""What a layer of a block, an attention or a feed-forward layer, declares of itself. Imports no torch."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from foretrain.configs.model import ModelConfig
from foretrain.parallel.layout import Layout
from foretrain.trainer.model.spec import Param

if TYPE_CHECKING:
    from torch import nn

    from foretrain.trainer.model.parts import Parts

Recomputed = Literal["none", "selective", "full"]
"""What a block computes again for the backward pass, as `train.recompute` names it."""


@dataclass(frozen=True)
class Flops:
    """FLOPs of training on one token, forward and backward."""

    total: float
    selective: float = 0.0
    """The part of them whose forward pass runs again if train.recompute = selective."""


class LayerKind(ABC):
    """A kind of attention or of feed-forward layer: what is known about it without tensors, and its module.

    Names are local: the parameter "up.weight" of a feed-forward layer is "blocks.3.mlp.up.weight" in the table.
    """

    has_loss = False
    """Whether the module returns (activations, loss), with a loss of its own; see `module`."""
    takes_cache = False
    """Whether the module of an attention layer uses `documents.continued` (`trainer/model/cache.py`), the keys and
    values of earlier positions. If it does not, generation computes all positions again for each token."""

    @abstractmethod
    def params(self, model: ModelConfig) -> list[Param]:
        """The layer's rows of the parameter table, in the order in which data meets them."""

    def flops_per_token(self, model: ModelConfig, causal: bool = False) -> Flops:
        """FLOPs of the layer on one token: 6 for each element of its matrices, unless the kind has more to count.

        `causal`: count only the half of attention that is below the diagonal.
        """
        return Flops(matrix_flops(self.params(model)))

    @abstractmethod
    def activation_bytes(self, model: ModelConfig, layout: Layout, recompute: Recomputed, element_bytes: int) -> float:
        """Bytes kept for the backward pass for each token of a rank's sequence, if `recompute` is none or selective.

        A block that is recomputed in full keeps nothing of its layers, and does not ask.
        """

    @abstractmethod
    def module(self, parts: "Parts") -> "nn.Module":
        """A module from activations (L, B, D) to activations (L, B, D), made of `parts`. It may import torch.

        Attention gets `documents` too. If the kind `has_loss`, the module returns (activations, loss): a scalar that is
        minimised together with the loss of a step, and not reported with it. It must be a sum over this rank's tokens,
        of all hidden units or of this rank's. Then no layout changes the sum over ranks and micro-batches, which is
        divided by the number of valid tokens of the global batch. A loss that is no sum over tokens has no place here.
        """


def matrix_flops(params: list[Param]) -> float:
    """FLOPs of training on one token that every matrix multiplies once."""
    return 6.0 * sum(param.num_elements for param in params if param.is_matrix)


def column_input_bytes(model: ModelConfig, layout: Layout, element_bytes: int) -> float:
    """Bytes of one token's input of a column-parallel layer; under sequence parallelism a rank keeps its part."""
    return element_bytes * model.d_model / (layout.tp if layout.sp else 1)
