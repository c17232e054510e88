"""A plugin with faults that the acceptance program for GPUs must find."""

import torch

from foretrain.trainer.callbacks import CALLBACKS, Callback
from foretrain.trainer.trainer import Trainer


class RoundedWeights(Callback):
    """Rounds the weights to bf16 when a run resumes, as if a checkpoint held what the model computes with."""

    def on_fit_start(self, trainer: Trainer) -> None:
        if trainer.run.resume is not None:
            weights = {
                shard.param.name: values.detach().to("cpu", torch.bfloat16) for shard, values in trainer.state.items()
            }
            trainer.state.set("weight", {name: values.float() for name, values in weights.items()})


CALLBACKS.register("rounded_weights", RoundedWeights)
