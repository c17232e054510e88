"""A block of the transformer: attention and a feed-forward layer, each behind a norm and added to the residual stream.

Legend: L sequence, B batch, D model width.
"""

from typing import Any

import torch
from torch import Tensor, nn

from foretrain.parallel.tensor import TensorParallel
from foretrain.trainer.model.blueprint import Blueprint
from foretrain.trainer.model.parts import Documents, Norm, Parts, scaled
from foretrain.trainer.model.table import layers_of


class Block(nn.Module):
    """Block number `number`; `recomputes_inside`: whether train.recompute is selective."""

    def __init__(self, blueprint: Blueprint, number: int, tp: TensorParallel, recomputes_inside: bool) -> None:
        super().__init__()
        model, kinds = blueprint.model, layers_of(blueprint.model)
        self._residual = blueprint.multipliers.residual
        self._has_loss = {name: kind.has_loss for name, kind in kinds.items()}

        def layer(name: str) -> nn.Module:
            return kinds[name].module(Parts(blueprint, f"blocks.{number}.{name}", tp, recomputes_inside))

        self.attn_norm = Norm(model, model.d_model, tp)
        self.attn = layer("attn")
        self.mlp_norm = Norm(model, model.d_model, tp)
        self.mlp = layer("mlp")

    def forward(self, x_LBD: Tensor, documents: Documents, loss_scale: Tensor | None = None) -> Tensor:
        """`loss_scale`: what the losses of layers, if they have any, are multiplied by in the loss of a step.

        It is a scalar on the device, and no number: each step has another one, and compiled code holds for one number.
        """
        h_LBD = x_LBD + self._out("attn", self.attn(self.attn_norm(x_LBD), documents=documents), loss_scale)
        return h_LBD + self._out("mlp", self.mlp(self.mlp_norm(h_LBD)), loss_scale)

    def _out(self, name: str, output: Any, loss_scale: Tensor | None) -> Tensor:
        """What a layer adds to the residual stream."""
        if self._has_loss[name]:
            output, loss = output
            output = with_loss(output, loss, loss_scale)
        return scaled(output, self._residual)


def with_loss(y: Tensor, loss: Tensor, scale: Tensor | None) -> Tensor:
    """`y`; its backward pass adds the gradient of scale * loss, wherever in a pipeline it is.

    Raises ValueError if there is a backward pass to come and no scale.
    """
    if not torch.is_grad_enabled():
        return y
    if scale is None:
        raise ValueError("a layer of the model has a loss of its own: call the model with loss_scale")
    return _WithLoss.apply(y, loss, scale)


class _WithLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, loss: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(scale)
        ctx.dtype = loss.dtype
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (scale,) = ctx.saved_tensors
        return grads[0], scale.to(ctx.dtype), None
