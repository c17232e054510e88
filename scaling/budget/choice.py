"""The run of a budget: among all legal shapes, the one whose predicted loss is least. Pure.

The law knows nothing of how deep a model is. Left alone, it would take whatever shape makes N cheap, so a shape off the
wanted aspect counts as if its loss were larger by ASPECT_PENALTY * log(aspect / wanted)^2: by 0.16 % at most.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from foretrain.configs.schema import Config
from foretrain.scaling.budget.law import Law
from foretrain.scaling.budget.shapes import Shape, ShapeRule
from foretrain.scaling.ladder.rungs import BatchRule, Rung, batch_of, least_steps

ASPECT_PENALTY = 0.01
"""Share of the loss that a shape is charged for the square of the logarithm of its distance from the wanted aspect."""
SIZE_PENALTY = 0.1
"""The same for smaller models that are compared: distance in aspect against distance in parameters."""


@dataclass(frozen=True)
class Run:
    """A run that a budget pays for, and the loss that the law predicts for it."""

    rung: Rung
    num_params: int
    """N, as the law counts it."""
    loss: float
    """Nats per token."""
    off_aspect: float

    @property
    def inference_flops(self) -> float:
        """FLOPs of a forward pass on one token: a third of those of training."""
        return self.rung.size.flops_per_token / 3

    @property
    def score(self) -> float:
        """The logarithm of the loss, with the charge for the aspect."""
        return math.log(self.loss) + ASPECT_PENALTY * self.off_aspect**2


@dataclass(frozen=True)
class Terms:
    """What decides the run of a shape."""

    base: Config
    """The config whose batch, learning rate and schedule the rules begin with."""
    rule: ShapeRule
    law: Law
    embeddings: bool
    """Whether the law's N counts embeddings."""
    batch: BatchRule
    flops: float
    """The budget: an upper limit."""

    def num_params(self, shape: Shape) -> int:
        """N of a shape, as the law counts it."""
        return shape.size.num_params if self.embeddings else shape.size.num_params_without_embeddings

    def run(self, shape: Shape) -> Run | None:
        """The run of a shape that uses the budget up, in complete steps; None if it has too few of them."""
        tokens = self.flops / shape.size.flops_per_token
        samples, lr = batch_of(self.base, tokens, self.batch, self.rule.layout.dp)
        step = samples * self.base.model.seq_len
        num_steps = int(self.flops) // (step * shape.size.flops_per_token)
        if num_steps < self.least_steps:
            return None
        model = self.rule.model_at(shape.d_model, shape.num_layers)
        rung = Rung(model, shape.size, samples, num_steps, num_steps * step, lr)
        num_params = self.num_params(shape)
        return Run(rung, num_params, self.law.loss(num_params, rung.num_tokens), shape.off_aspect)

    @property
    def least_steps(self) -> int:
        """The fewest steps of a run: those of a rung of a ladder."""
        return least_steps(self.base.schedule.warmup_tokens / self.base.train.num_tokens)


def all_runs(terms: Terms, shapes: Iterable[Shape]) -> list[Run]:
    """The run of every shape that has steps enough."""
    return [run for shape in shapes if (run := terms.run(shape)) is not None]


def best_run(runs: Sequence[Run]) -> Run:
    """The run with the least loss, near the wanted aspect."""
    return min(runs, key=lambda run: run.score)


def nearest_run(runs: Sequence[Run], num_params: float) -> Run:
    """The run of the model with about that many parameters, near the wanted aspect."""
    return min(runs, key=lambda run: abs(math.log(run.num_params / num_params)) + SIZE_PENALTY * run.off_aspect**2)
