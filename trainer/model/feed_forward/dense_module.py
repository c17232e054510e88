"""The module of a dense feed-forward layer, for one tensor-parallel rank.

Legend: L sequence, B batch, D model width, F feed-forward width of this rank.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from foretrain.trainer.model.parts import Parts


class DenseModule(nn.Module):
    """swiglu: down(silu(gate x) * up x); gelu: down(gelu(up x))."""

    def __init__(self, parts: Parts, names: Sequence[str]) -> None:
        super().__init__()
        self._activation = parts.model.activation
        self._run = parts.selective
        self.up = parts.column(*names)
        self.down = parts.row("down")

    def forward(self, x_LBD: Tensor) -> Tensor:
        return self.down(self._run(self._activate, *self.up(x_LBD)))

    def _activate(self, *up_LBF: Tensor) -> Tensor:
        if self._activation == "swiglu":
            gate_LBF, value_LBF = up_LBF
            return F.silu(gate_LBF) * value_LBF
        return F.gelu(up_LBF[0], approximate="tanh" if self._activation == "gelu_tanh" else "none")
