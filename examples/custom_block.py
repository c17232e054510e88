"""A model with a feed-forward layer of your own, on any layout, under muP, and with checkpoints that any layout loads.

    foretrain prepare --stdlib --out data/stdlib --reuse
    python examples/custom_block.py data/stdlib
    PYTHONPATH=examples foretrain train runs/dry_run 'plugins=[custom_block]' model.feed_forward=squared_relu \
        run_dir=runs/custom_block

The layer is down(relu(up x)^2) (arXiv 2109.08668). It declares its parameters with named axes; how they are sharded,
initialised, counted, scaled by muP and saved all follows from that.

Legend: L sequence, B batch, D model width, F feed-forward width of this rank.
"""

import sys

import torch.nn.functional as F
from torch import Tensor, nn

import foretrain
from foretrain.configs.model import ModelConfig
from foretrain.parallel.layout import Layout
from foretrain.trainer.model.feed_forward import FEED_FORWARD
from foretrain.trainer.model.layer import LayerKind, Recomputed, column_input_bytes
from foretrain.trainer.model.parts import Parts
from foretrain.trainer.model.spec import Param, linear


class SquaredRelu(LayerKind):
    """The feed-forward layer down(relu(up x)^2)."""

    def params(self, model: ModelConfig) -> list[Param]:
        d_model, d_ff = model.d_model, model.block_shape.d_ff
        up = linear("up", ("ffn", "embed"), (d_ff, d_model), "hidden", model.init_std)
        return [*up, *linear("down", ("embed", "ffn"), (d_model, d_ff), "residual", model.init_std)]

    def activation_bytes(self, model: ModelConfig, layout: Layout, recompute: Recomputed, element_bytes: int) -> float:
        inner = element_bytes * model.block_shape.d_ff / layout.tp
        return column_input_bytes(model, layout, element_bytes) + (2 if recompute == "selective" else 3) * inner

    def module(self, parts: Parts) -> nn.Module:
        return SquaredReluModule(parts)


class SquaredReluModule(nn.Module):
    """This rank's part of the layer."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self._recomputed = parts.selective  # calls a function, and computes it again in the backward pass if asked to
        self.up = parts.column("up")
        self.down = parts.row("down")

    def forward(self, x_LBD: Tensor) -> Tensor:
        (up_LBF,) = self.up(x_LBD)
        return self.down(self._recomputed(lambda up: F.relu(up).square(), up_LBF))


FEED_FORWARD.register("squared_relu", SquaredRelu())


def main(data: str, *overrides: str) -> foretrain.Outcome:
    """Train a small model with the layer in this process."""
    settings = [
        "run_dir=runs/custom_block",
        "model.feed_forward=squared_relu",
        f"data.path={data}",
        "train.num_tokens=1e5",
        "parallel.dp=1",
        "parallel.tp=1",
        "parallel.pp=1",
    ]
    run = foretrain.prepare_run(foretrain.load_config("runs/dry_run", [*settings, *overrides]))
    print(foretrain.build_model(run.config))
    with foretrain.process_groups(run) as groups:
        return foretrain.Trainer(run, groups).fit()


if __name__ == "__main__":
    main(*sys.argv[1:])
