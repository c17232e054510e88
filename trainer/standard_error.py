"""The standard error of a held-out loss, and the number of samples that a wanted one needs. Pure arithmetic.

The loss is the sum of the losses of all samples over the number of their tokens. Samples are windows of a stream, and
windows of one document have losses alike, so they are not independent; documents are. The error is therefore that of a
ratio of sums over documents (Cochran, Sampling Techniques, 1977). With the residual of a document r = sum over its
samples of (loss of the sample - mean loss * tokens of the sample), and G documents, the standard error is the root of
sum(r^2) * G / (G - 1) over the number of all tokens. A window counts for the document in which it begins. An evaluation
that takes few of many windows, spread evenly, has nearly each from a document of its own.

It says how far the loss is from that of endless data of which the held-out set is a part, and not from that of the set:
it is not 0 if all windows are samples, and many samples of few documents do not make it small. The noise between runs
with other seeds is not in it.

Shape letters: N samples, G documents.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean over held-out samples."""

    mean: float
    """Nats per token."""
    standard_error: float | None
    """None if it is not known, as of samples of one document."""
    num_samples: int

    @property
    def variance_of_a_sample(self) -> float:
        """What the square of the standard error is, times the number of samples."""
        return math.nan if self.standard_error is None else self.num_samples * self.standard_error**2


def estimate(loss_N: Floats, num_tokens_N: Ints, document_N: Ints) -> Estimate:
    """The mean loss per token of samples with these sums of losses, and its standard error.

    `document_N`: numbers that are equal for samples of the same document.
    """
    num_samples, num_tokens = len(loss_N), int(num_tokens_N.sum())
    if num_tokens == 0:
        return Estimate(math.nan, None, num_samples)
    mean = float(loss_N.sum()) / num_tokens
    _, of_document_N = np.unique(document_N, return_inverse=True)
    residual_G = np.bincount(of_document_N, weights=loss_N - mean * num_tokens_N)
    num_documents = len(residual_G)
    if num_documents < 2:
        return Estimate(mean, None, num_samples)
    variance = float(residual_G @ residual_G) * num_documents / (num_documents - 1)
    return Estimate(mean, math.sqrt(variance) / num_tokens, num_samples)


def combined(estimates: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
    """The mean of several sources, each with its share of the weights. A source of weight 0 does not count."""
    total = sum(weights)
    parts = [(each, weight / total) for each, weight in zip(estimates, weights, strict=True) if weight]
    mean = sum(share * each.mean for each, share in parts)
    errors = [share * each.standard_error for each, share in parts if each.standard_error is not None]
    standard_error = math.sqrt(sum(error**2 for error in errors)) if len(errors) == len(parts) else None
    return Estimate(mean, standard_error, sum(each.num_samples for each in estimates))


def samples_needed(estimates: Sequence[Estimate], weights: Sequence[float], standard_error: float) -> int | None:
    """The number of samples for a standard error of the combined mean, if each source gives its share of them.

    It is rounded up to one of four sizes per doubling (4, 5, 6, 7, 8, 10, 12, 14, 16, 20, ...): layouts, which round
    sums otherwise, then have the same number. None if it is not known.
    """
    parts = [(each, weight) for each, weight in zip(estimates, weights, strict=True) if weight]
    needed = sum(weight * each.variance_of_a_sample for each, weight in parts) / sum(weights) / standard_error**2
    return rounded_up(math.ceil(needed)) if math.isfinite(needed) else None


def rounded_up(number: int) -> int:
    """The least number of at most three binary digits before its zeros that is not smaller."""
    unit = 1 << max(0, number.bit_length() - 3)
    return -(-number // unit) * unit
