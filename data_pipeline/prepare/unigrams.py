"""Losses of a model that knows only how often each token occurs."""

import numpy as np
import numpy.typing as npt


def entropy_nats(counts_V: npt.NDArray[np.int64]) -> float:
    """Entropy of the frequencies of tokens, from the number of each; shape (vocab_size,)."""
    frequencies = counts_V[counts_V > 0] / counts_V.sum()
    return float(-(frequencies * np.log(frequencies)).sum())


def cross_entropy_nats(counts_V: npt.NDArray[np.int64], train_counts_V: npt.NDArray[np.int64]) -> float | None:
    """Mean loss on tokens of which there are `counts_V`, if their probabilities are their frequencies in other text.

    That text has `train_counts_V` of them, and each counts once more: a token that it does not have is possible too.
    None if there are no tokens.
    """
    if not counts_V.any():
        return None
    log_frequencies_V = np.log((train_counts_V + 1) / (train_counts_V.sum() + len(train_counts_V)))
    return float(-(counts_V * log_frequencies_V).sum() / counts_V.sum())
