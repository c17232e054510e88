"""The rungs of a ladder: shapes, tokens, batches and learning rates whose total cost is within a budget. Pure.

The possible rungs are all legal shapes below the target, each with the tokens and the batch that the rules give it. A
ladder takes those whose costs are nearest to a geometric series that ends at the largest rung the budget allows.
"""

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from foretrain.configs.model import ModelConfig
from foretrain.configs.schema import Config
from foretrain.trainer.model.resize import resized, width_step
from foretrain.trainer.model.size import ModelSize

BatchRule = Literal["fixed", "sqrt", "linear"]
BATCH_RULES: dict[BatchRule, str] = {
    "fixed": "as the target's",
    "sqrt": "as sqrt(tokens), lr as sqrt(batch)",
    "linear": "as the tokens, so that all runs have about as many steps; lr as sqrt(batch)",
}
"""How the batch and the learning rate follow from the tokens, in words."""

MAX_RATIO = 4.0
"""Largest ratio of the costs of neighbouring rungs, unless the user gives another."""
MAX_SPAN = 100.0
"""Largest ratio of the costs of the largest and the smallest rung, unless the user gives a ratio: the losses of much
smaller models bend away from the line of the larger ones."""
MIN_STEPS = 100
"""Steps that every rung trains for at least: shorter runs resemble the beginning of the target's, not the target."""
BATCH_PARTS = 8
"""A batch that follows the tokens is a multiple of the largest power of two that is at most this part of it, so that it
divides into micro-batches. This changes a batch of 8 samples or more, on each replica, by 1 / 16 at most."""
LINEAR_BATCH_PARTS = 32
"""The same if the batch is proportional to the tokens: the numbers of steps differ by 1 / 64 at most."""

MAX_EPOCHS = 4.0
"""Repetitions of the data from which plans warn."""
COST_OF_EPOCHS = "measured on small models, 4 epochs cost 0.7 % of the loss, 8 epochs 2.2 %, 16 epochs 4.4 %"


@dataclass(frozen=True)
class Rules:
    """What is the same for all rungs of a ladder, fixed before the first one trains."""

    tokens_per_param: float
    """Training tokens for each parameter, embeddings and head included."""
    batch: BatchRule = "fixed"
    """fixed: the target's global batch. sqrt: it is proportional to the square root of the training tokens, and the
    learning rate to that of the batch. linear: it is proportional to the tokens, so that all runs have about as many
    steps, and the learning rate to the square root of the batch. muP carries the best rate over widths, not over
    batches: with Adam it grows as their root while the noise of gradients decides (Malladi et al., arXiv 2205.10287).
    """
    dp: int = 1
    """Data-parallel replicas, which divide every batch."""
    min_width: int = 1
    """Width of the smallest shape that may be a rung."""


@dataclass(frozen=True)
class Rung:
    """A model, and how it is trained."""

    model: ModelConfig
    size: ModelSize
    global_batch_size: int
    """Samples of a step."""
    num_steps: int
    num_tokens: int
    """Training tokens: those of all steps."""
    lr: float
    """`optimizer.lr`, to which the parametrization adds the factors of the shape."""

    @property
    def flops(self) -> int:
        """FLOPs of one run."""
        return self.size.flops_per_token * self.num_tokens


@dataclass(frozen=True)
class Family:
    """The possible rungs below a target."""

    rungs: tuple[Rung, ...]
    """Small to large: parameters, tokens and cost all increase."""
    too_short: Rung | None = None
    """The largest shape that is left out because its run would have too few steps."""


def rung_of(target: Config, model: ModelConfig, rules: Rules) -> Rung:
    """The run of one shape under the rules.

    Its tokens are those of complete steps, and differ from `rules.tokens_per_param` by half a step at most.
    """
    size = ModelSize.of(model)
    tokens = rules.tokens_per_param * size.num_params
    samples, lr = batch_of(target, tokens, rules.batch, rules.dp)
    num_steps = max(1, round(tokens / (samples * model.seq_len)))
    return Rung(model, size, samples, num_steps, num_steps * samples * model.seq_len, lr)


def batch_of(target: Config, num_tokens: float, rule: BatchRule, dp: int) -> tuple[int, float]:
    """The global batch, in samples, and `optimizer.lr` of a run of `num_tokens`, by the target's and the rule."""
    samples, lr = target.train.global_batch_size, target.optimizer.lr
    if rule == "sqrt":
        samples = _rounded(samples * math.sqrt(num_tokens / target.train.num_tokens), dp, BATCH_PARTS)
    elif rule == "linear":
        samples = _rounded(samples * num_tokens / target.train.num_tokens, dp, LINEAR_BATCH_PARTS)
    return samples, lr * math.sqrt(samples / target.train.global_batch_size)


def target_rung(target: Config) -> Rung:
    """The target itself, as its config says."""
    samples = target.train.global_batch_size
    num_steps = -(-target.train.num_tokens // (samples * target.model.seq_len))
    num_tokens = num_steps * samples * target.model.seq_len
    return Rung(target.model, ModelSize.of(target.model), samples, num_steps, num_tokens, target.optimizer.lr)


def shapes(target: Config, min_width: int = 1) -> Iterator[ModelConfig]:
    """Every legal shape that is narrower than the target, narrow to wide.

    Heads are as wide as the target's, their number and the feed-forward width are in proportion to the width, and so is
    the depth under CompleteP. Under other parametrizations all shapes are as deep as the target.
    """
    model, step = target.model, width_step(target.model)
    for width in range(step, model.d_model, step):
        if width >= min_width:
            depth = model.num_layers
            if target.mup.parametrization == "completep":
                depth = max(1, round(model.num_layers * width / model.d_model))
            yield resized(model, width, depth)


def family(target: Config, rules: Rules, *, enough_flops: float = math.inf, enough: int = 0) -> Family:
    """The possible rungs below a target; without those that cost more than `enough_flops`, if there are `enough`."""
    goal, warmup_share = target_rung(target), target.schedule.warmup_tokens / target.train.num_tokens
    rungs: list[Rung] = []
    too_short = None
    for model in shapes(target, rules.min_width):
        rung = rung_of(target, model, rules)
        if len(rungs) >= enough and rung.flops > enough_flops:
            break
        if rung.num_steps < least_steps(warmup_share):
            too_short = rung
        elif _is_below(rung, goal) and (not rungs or _is_below(rungs[-1], rung)):
            rungs.append(rung)
    return Family(tuple(rungs), too_short)


def least_steps(warmup_share: float) -> int:
    """The least number of steps of a rung: with a warm-up, at least one step of it."""
    return max(MIN_STEPS, math.ceil(1 / warmup_share) if warmup_share > 0 else 0)


def default_ratio(num_points: int) -> float:
    """The ratio of the costs of neighbouring rungs that a ladder aims at."""
    return min(MAX_RATIO, MAX_SPAN ** (1 / (num_points - 1)))


def choose(flops: Sequence[int], num_points: int, ratio: float, budget_flops: float) -> list[int]:
    """Positions of the rungs in `flops`, the increasing costs of all possible ones; empty if the budget is too small.

    The last one is as large as possible. The others are nearest to costs that fall by `ratio`, or by less if the
    smallest possible rung costs too much for that. Any budget that `least_flops` allows is enough.
    """
    for top in range(len(flops) - 1, num_points - 2, -1):
        found = _series(flops, top, num_points, ratio)
        if sum(flops[place] for place in found) <= budget_flops:
            return found
    return []


def least_flops(flops: Sequence[int], num_points: int) -> int:
    """The cost of the cheapest ladder: one of the smallest rungs."""
    return sum(flops[:num_points])


def _series(flops: Sequence[int], top: int, num_points: int, ratio: float) -> list[int]:
    """Positions whose costs are nearest to a geometric series that ends at `top`, all different and increasing."""
    logs = [math.log(cost) for cost in flops[: top + 1]]
    step = min(math.log(ratio), (logs[top] - logs[0]) / max(1, num_points - 1))
    found = [top]
    for below in range(1, num_points):
        wanted = logs[top] - below * step
        right = min(bisect_left(logs, wanted), top)
        nearest = right - 1 if right and wanted - logs[right - 1] < logs[right] - wanted else right
        # Every rung below needs a place too.
        found.append(max(num_points - 1 - below, min(nearest, found[-1] - 1)))
    return found[::-1]


def _is_below(small: Rung, large: Rung) -> bool:
    return (
        small.size.num_params < large.size.num_params
        and small.num_tokens < large.num_tokens
        and small.flops < large.flops
    )


def _rounded(samples: float, dp: int, parts: int) -> int:
    """A batch of about that size that `dp` replicas and small powers of two divide."""
    unit = dp * 2 ** max(0, math.floor(math.log2(max(1.0, samples / (parts * dp)))))
    return max(1, round(samples / unit)) * unit
