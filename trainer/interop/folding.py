"""The multipliers of a parametrization as factors of weights, for models that have no multipliers. No torch.

Every multiplier of a blueprint is followed or preceded by a linear map, so that weights take it up exactly, but for one
rounding of each weight if the factor is not a power of 2:

| multiplier | is a factor of |
|---|---|
| of a matrix, which its input is multiplied by | the matrix, and not of its bias |
| of an embedding | the embedding |
| of a layer's output (`Multipliers.residual`) | the matrix that writes into the residual stream, and its bias |
| of attention logits | the gain of `q_norm`, or without it the matrix and the bias of queries: rotations are linear |
| of the head's input | the head's matrix; if it is tied, the gain and the bias of the last norm, see below |

A tied head is the matrix of the embedding, which has taken up the embedding's multiplier. So the gain and the bias of
the last norm are divided by that one, and multiplied by the head's.
"""

from dataclasses import dataclass

from foretrain.trainer.interop.tensors import Source
from foretrain.trainer.model.blueprint import Blueprint
from foretrain.trainer.model.spec import Param

_FINAL_NORM = "final_norm"
_QUERIES, _QUERY_NORM = "attn.q", "attn.q_norm"


@dataclass(frozen=True)
class Folded:
    """The parameters of a model, each with the factor that takes up the multipliers."""

    blueprint: Blueprint

    def source(self, name: str) -> Source:
        """The parameter of that name."""
        param = self.blueprint.by_name[name]
        return Source(name, param.shape, self.factor(param))

    def has(self, name: str) -> bool:
        """Whether the model has a parameter of that name."""
        return name in self.blueprint.by_name

    def factor(self, param: Param) -> float:
        """What the elements of a parameter are multiplied by."""
        multipliers = self.blueprint.multipliers
        factor = param.multiplier if param.is_matrix and param.role != "output" else 1.0
        if param.role == "output":
            return multipliers.head
        if self._layer(param) == _FINAL_NORM and self.blueprint.model.tie_embeddings:
            (embed,) = (each for each in self.blueprint.table if each.is_token_embedding)
            return multipliers.head / embed.multiplier
        if self._writes_residual(param):
            factor *= multipliers.residual
        if param.in_block and self._layer(param) == (_QUERY_NORM if self.blueprint.model.qk_norm else _QUERIES):
            factor *= multipliers.attention
        return factor

    def _layer(self, param: Param) -> str:
        """The name of the parameter's layer, inside its block."""
        return param.name.removeprefix(f"blocks.{param.block}.").rpartition(".")[0]

    def _writes_residual(self, param: Param) -> bool:
        """Whether it is a matrix that writes into the residual stream, or the bias of one."""
        layer = param.name.rpartition(".")[0]
        matrix = self.blueprint.by_name.get(f"{layer}.weight")
        return matrix is not None and matrix.role == "residual"
