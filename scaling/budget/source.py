"""Where a law comes from: the user's own fit, or published ones. Reads files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foretrain.scaling.budget.law import Law
from foretrain.scaling.laws import published
from foretrain.scaling.laws.evidence import Evidence, Prediction
from foretrain.scaling.prediction.fit import evidence_in
from foretrain.scaling.prediction.record import FitRecord
from foretrain.trainer.metrics import VAL_LOSS

CHINCHILLA = "chinchilla"
"""The form that separates parameters from tokens."""
OTHER_DATA = (
    "the loss is that of other data: nats per token of MassiveText, with a tokenizer of 32,000 tokens; fit runs of "
    "your own for a loss that your run can be compared with"
)


@dataclass(frozen=True)
class Source:
    """A law, and what is known of it."""

    law: Law
    name: str
    """What it is, in words."""
    about_intervals: str
    """Where its intervals come from, or why there are none."""
    embeddings: bool
    """Whether N counts embeddings."""
    compute_range: tuple[float, float]
    """FLOPs of the smallest and of the largest run behind it."""
    tokens_per_param_range: tuple[float, float]
    """The fewest and the most tokens per parameter of these runs."""
    evidence: Evidence | None = None
    """The fit with its intervals; None: no intervals are known."""
    record: FitRecord | None = None
    """The file of the user's own fit."""

    def predict(self, num_params: int, num_tokens: int) -> Prediction | None:
        """The loss of a run with its intervals; None if no intervals are known."""
        if self.evidence is None:
            return None
        return self.evidence.predict(np.array([num_params, num_tokens], dtype=float))


def of_fit(path: Path) -> Source:
    """The law in a file of `foretrain fit`. Raises ValueError, with what to do, if it cannot split a budget."""
    record = FitRecord.read(path)
    if record.metric != VAL_LOSS:
        raise ValueError(
            f"{path} is a fit of {record.metric}, and a budget needs the loss: fit the runs without --metric"
        )
    if record.law != CHINCHILLA:
        raise ValueError(
            f"{path} has a law of compute alone ({record.formula}), which cannot separate parameters from tokens: fit "
            f"runs whose tokens per parameter differ with `foretrain fit RUNS --law {CHINCHILLA}`, or use --law refit"
        )
    evidence = evidence_in(record.law, record.runs)
    ratios = [run["D"] / run["N"] for run in record.runs]
    unbounded = f"; not identified: {', '.join(record.unidentified)}" if record.unidentified else ""
    return Source(
        Law.of(evidence.fit.values),
        f"{path}, fitted to {len(record.runs)} runs",
        f"profile likelihood over the runs of the fit, widened by {record.widening:.2f} by its back-test{unbounded}",
        record.embeddings,
        evidence.compute_range,
        (min(ratios), max(ratios)),
        evidence,
        record,
    )


def hoffmann() -> Source:
    """The law of arXiv 2203.15556 as published."""
    return Source(
        Law.of(published.HOFFMANN),
        "approach 3 of Hoffmann et al. (arXiv 2203.15556), as published",
        "none: the published ones are far too narrow for the number of runs (arXiv 2404.10102); --law refit has some",
        True,
        *_ranges(),
    )


def refit() -> Source:
    """The corrected law of arXiv 2404.10102, fitted here to its runs."""
    evidence = published.refit()
    return Source(
        Law.of(evidence.fit.values),
        "the runs of Hoffmann et al. as read off by arXiv 2404.10102, without the 5 highest losses, fitted again here",
        "profile likelihood over these 240 runs",
        True,
        *_ranges(),
        evidence,
    )


PUBLISHED: Mapping[str, Callable[[], Source]] = {"hoffmann": hoffmann, "refit": refit}
"""The published laws by name."""


def source_of(fit: Path | None, law: str | None) -> Source:
    """The law that the options name. Raises ValueError if they name none, or two."""
    if fit is not None and law is not None:
        raise ValueError("--fit and --law both name a law: give one")
    if fit is not None:
        return of_fit(fit)
    if law is None:
        raise ValueError(f"no law is given: give --fit FILE, of `foretrain fit`, or --law {' or '.join(PUBLISHED)}")
    if law not in PUBLISHED:
        raise ValueError(f"--law {law}: use one of {', '.join(PUBLISHED)}")
    return PUBLISHED[law]()


def _ranges() -> tuple[tuple[float, float], tuple[float, float]]:
    """The compute and the tokens per parameter of the published runs that are known."""
    x_RV, _ = published.chinchilla_points()
    flops_R, ratio_R = 6.0 * x_RV.prod(axis=1), x_RV[:, 1] / x_RV[:, 0]
    return (float(np.min(flops_R)), float(np.max(flops_R))), (float(np.min(ratio_R)), float(np.max(ratio_R)))
