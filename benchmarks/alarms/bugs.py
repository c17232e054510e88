"""The planted bugs, as callbacks that `train.callbacks` names: a config lists this module in `plugins`.

A run whose config differs in a setting that changes its curve is refused by its prediction before it starts. So the
bugs are in no such setting, as those that alarms are for.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from benchmarks.alarms.plan import BUGS, BugName, first_step
from foretrain.data_pipeline.stream.batch import Batch
from foretrain.trainer.callbacks.base import CALLBACKS, Callback, Step
from foretrain.trainer.trainer import Trainer


class Planted(Callback):
    """A bug from the middle of the run on."""

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def is_wrong(self, trainer: Trainer, number: int) -> bool:
        """Whether a step has the bug."""
        return number >= first_step(trainer.run.total_steps)


class WrongRate(Planted):
    """The learning rate of the matrices of blocks is `strength` times what it should be."""

    def before_update(self, trainer: Trainer, number: int) -> None:
        if self.is_wrong(trainer, number):
            (scale,) = {shard.param.scale for shard in trainer.state.shards if shard.param.role == "hidden"}
            matrices = [
                group
                for group in trainer.engine.zero.optimizer.param_groups
                if group["name"].startswith(f"lr x{scale.lr:g},")
            ]
            assert len(matrices) == 1 and scale.lr != 1.0, "other parameters have the rate of these matrices"
            matrices[0]["lr"] *= self.strength  # the engine sets it again in the next step


class DecayOfGains(Planted):
    """The gains of norms decay by `strength` times the learning rate in each step."""

    def before_update(self, trainer: Trainer, number: int) -> None:
        if self.is_wrong(trainer, number):
            gains = [group for group in trainer.engine.zero.optimizer.param_groups if "no decay" in group["name"]]
            assert gains, "the model has no gains"
            for group in gains:
                group["weight_decay"] = self.strength


class ShuffledTokens(Planted):
    """A share of the samples, `strength`, comes from a shard whose tokens were shuffled: their frequencies stay."""

    def before_step(self, trainer: Trainer, number: int, batch: Batch) -> None:
        if self.is_wrong(trainer, number):
            random = np.random.default_rng([trainer.run.config.data.seed, number])
            assert batch.rows_BC is not None
            is_broken_B = random.random(len(batch.rows_BC)) < self.strength
            batch.rows_BC[is_broken_B] = random.permuted(batch.rows_BC[is_broken_B].ravel()).reshape(
                -1, batch.rows_BC.shape[1]
            )


class RoundedWeights(Planted):
    """Weights are rounded to bf16 after each update: there are no fp32 masters."""

    def on_step(self, trainer: Trainer, step: Step) -> None:
        if self.is_wrong(trainer, step.number):
            weights = {shard.param.name: weight.bfloat16().float() for shard, weight in trainer.state.items()}
            trainer.state.set("weight", weights)


class RoundedProducts(Planted):
    """Products of matrices are made in bf16, and weights are updated in fp32."""

    def __init__(self, strength: float) -> None:
        super().__init__(strength)
        # It would keep the rounded weights of the first step for as long as it is in force.
        self._rounded = torch.autocast("cpu", torch.bfloat16, cache_enabled=False)
        self._is_rounding = False

    def before_step(self, trainer: Trainer, number: int, batch: Batch) -> None:
        if self.is_wrong(trainer, number) and not self._is_rounding:
            self._rounded.__enter__()
            self._is_rounding = True

    def on_close(self, trainer: Trainer) -> None:
        if self._is_rounding:
            self._rounded.__exit__(None, None, None)


CLASSES: dict[BugName, Callable[[float], Planted]] = {
    "rate": WrongRate,
    "shuffled": ShuffledTokens,
    "decay": DecayOfGains,
    "bf16_weights": RoundedWeights,
    "bf16_products": RoundedProducts,
}

for bug in BUGS:
    CALLBACKS.register(bug.label, partial(CLASSES[bug.name], bug.strength))
