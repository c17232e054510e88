"""The goodput of a run in words, as metrics, and as a record."""

from typing import Any

from foretrain.progress import format_duration
from foretrain.trainer.goodput.causes import GOOD, LABELS, Cause
from foretrain.trainer.goodput.ledger import Ledger

MIN_SHARE = 0.0005
"""Causes with a smaller share are not shown in words: they would be 0.0 %."""


def in_words(ledger: Ledger) -> str:
    """One line, such as "93.1% of 1:02:03: 4.1% start-up, 1.8% checkpoints, 1.0% lost steps"; "" without facts."""
    if not ledger.life_s:
        return ""
    shares = {cause: share for cause, share in ledger.shares.items() if cause != GOOD and share >= MIN_SHARE}
    largest_first = sorted(shares, key=lambda cause: -shares[cause])
    causes = ", ".join(_cause_in_words(cause, ledger) for cause in largest_first)
    starts = f" in {ledger.num_starts} starts" if ledger.num_starts > 1 else ""
    return f"{ledger.goodput:.1%} of {format_duration(ledger.life_s)}{starts}{': ' if causes else ''}{causes}"


def _cause_in_words(cause: Cause, ledger: Ledger) -> str:
    number = f"{ledger.num_lost:,} " if cause == "lost" else ""
    return f"{ledger.shares[cause]:.1%} {number}{LABELS[cause]}"


def as_metrics(shares: dict[Cause, float]) -> dict[str, float]:
    """The metrics of the shares: `goodput`, and `badput/CAUSE` for each cause of the rest."""
    return {"goodput" if cause == GOOD else f"badput/{cause}": share for cause, share in shares.items()}


def as_record(ledger: Ledger) -> dict[str, Any]:
    """The account as values that JSON can hold."""
    return {
        "goodput": round(ledger.goodput, 6),
        "life_s": round(ledger.life_s, 3),
        "seconds": {cause: round(seconds, 3) for cause, seconds in ledger.seconds.items()},
        "lost_steps": ledger.num_lost,
        "starts": ledger.num_starts,
    }
