"""What an evaluation finds of a task: the mean of -log(pass rate), the accuracy, and their standard errors. Pure.

The pass rate of a problem is the probability with which the model, sampled at temperature 1, gives the answer after the
prompt: the product of the probabilities of the answer's tokens, each after the prompt and the tokens before it. The
metric is the mean over problems of -log(pass rate), in nats for a complete answer, as in the GPT-4 report (arXiv
2303.08774, section 3.2). It is not -log of the mean pass rate, which is never larger and depends on the problems that
are easy.

Where a problem has choices, the model's own answer is the most likely one of them, the first of those that are as
likely. Accuracies are then those that lm-eval calls acc and acc_norm.

Shape letters: N problems, K choices of a problem.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from foretrain.trainer.metrics import ACCURACY, ACCURACY_NORM, NEG_LOG_PASS_RATE, error_of

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TaskResult:
    """The result of one task, the same on every rank."""

    neg_log_pass_rate: float
    """The mean over problems of -log(pass rate), in nats."""
    accuracy: float
    """Share of the problems of whose answer each token is the single most likely one; or, with choices, of those whose
    answer is the most likely choice."""
    neg_log_pass_rate_error: float | None
    """Standard error over problems; None if there is only one."""
    accuracy_error: float | None
    num_problems: int
    accuracy_norm: float | None = None
    """The accuracy if the choices are compared by their log likelihood per character; None without choices."""
    accuracy_norm_error: float | None = None

    @classmethod
    def of(cls, neg_log_pass_rate_N: Floats, is_right_N: Floats) -> "TaskResult":
        """The result of N problems. `is_right_N`: 1 for each that is answered right, else 0."""
        (rate, rate_error), (accuracy, accuracy_error) = map(_mean, (neg_log_pass_rate_N, is_right_N))
        return cls(rate, accuracy, rate_error, accuracy_error, len(is_right_N))

    @classmethod
    def of_choices(cls, neg_log_NK: Floats, num_chars_NK: Ints, right_N: Ints) -> "TaskResult":
        """The result of N problems with K choices, whose `right_N`-th ones are the answers.

        `neg_log_NK`: -log of the probability of each choice. `num_chars_NK`: its characters.
        """
        of_right_N = neg_log_NK[np.arange(len(right_N)), right_N]
        found = cls.of(of_right_N, (neg_log_NK.argmin(axis=1) == right_N).astype(float))
        norm, norm_error = _mean(((neg_log_NK / num_chars_NK).argmin(axis=1) == right_N).astype(float))
        return replace(found, accuracy_norm=norm, accuracy_norm_error=norm_error)

    def __str__(self) -> str:
        return f"-log(pass rate) {self.neg_log_pass_rate:.4f}, accuracy {self.accuracy:.1%}"

    def as_metrics(self, task: str) -> dict[str, float]:
        """What is known of it by the names of metrics."""
        rate, accuracy, norm = (f"{name}/{task}" for name in (NEG_LOG_PASS_RATE, ACCURACY, ACCURACY_NORM))
        values = {
            rate: self.neg_log_pass_rate,
            error_of(rate): self.neg_log_pass_rate_error,
            accuracy: self.accuracy,
            error_of(accuracy): self.accuracy_error,
            norm: self.accuracy_norm,
            error_of(norm): self.accuracy_norm_error,
            f"num_problems/{task}": self.num_problems,
        }
        return {name: value for name, value in values.items() if value is not None}


def _mean(value_N: Floats) -> tuple[float, float | None]:
    """The mean of independent values, and its standard error, if there are two or more."""
    count = len(value_N)
    error = float(np.std(value_N, ddof=1)) / math.sqrt(count) if count > 1 else None
    return float(np.mean(value_N)), error
