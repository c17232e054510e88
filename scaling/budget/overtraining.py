"""What a smaller model would cost: more loss for the same compute, or more compute for the same loss. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from foretrain.scaling.budget.choice import Run, nearest_run
from foretrain.scaling.budget.law import Law

SHARES = (1 / 2, 1 / 4, 1 / 8)
"""Parameters of the smaller models, over those of the compute-optimal one."""
LEAST_CHANGE = 1.2
"""A shape that is smaller than the one before by less than this factor is not shown: there is none near the share."""


@dataclass(frozen=True)
class Smaller:
    """A smaller model, trained on the same compute, and trained to the same loss."""

    run: Run
    """On the same compute."""
    same_loss_tokens: float | None
    """Tokens after which it has the loss of the compute-optimal run; None: it never has, by the law."""
    same_loss_flops: float | None
    """FLOPs of training on them."""
    pays_after_tokens: float | None
    """Tokens of inference, each one forward pass, that save as many FLOPs as the longer training adds."""


def smaller_models(best: Run, law: Law, runs: Sequence[Run]) -> list[Smaller]:
    """A row for each share of SHARES that a model of `runs` is near, large to small. `runs`: on the same compute."""
    rows: list[Smaller] = []
    for share in SHARES:
        run, before = nearest_run(runs, share * best.num_params), rows[-1].run if rows else best
        if run.num_params * LEAST_CHANGE <= before.num_params:
            rows.append(_compared(run, best, law))
    return rows


def _compared(run: Run, best: Run, law: Law) -> Smaller:
    tokens = law.tokens_for(run.num_params, best.loss)
    if tokens is None:
        return Smaller(run, None, None, None)
    flops = tokens * run.rung.size.flops_per_token
    extra, saved = flops - best.rung.flops, best.inference_flops - run.inference_flops
    return Smaller(run, tokens, flops, max(0.0, extra) / saved if saved > 0 else None)
