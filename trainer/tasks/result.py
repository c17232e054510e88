"""What an evaluation finds of a task: the mean of -log(pass rate), the accuracy, and their standard errors. Pure.

The pass rate of a problem is the probability with which the model, sampled at temperature 1, gives the answer after the
prompt: the product of the probabilities of the answer's tokens, each after the prompt and the tokens before it. The
metric is the mean over problems of -log(pass rate), in nats for a complete answer, as in the GPT-4 report (arXiv
2303.08774, section 3.2). It is not -log of the mean pass rate, which is never larger and depends on the problems that
are easy.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foretrain.trainer.metrics import ACCURACY, NEG_LOG_PASS_RATE, error_of

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TaskResult:
    """The result of one task, the same on every rank."""

    neg_log_pass_rate: float
    """The mean over problems of -log(pass rate), in nats."""
    accuracy: float
    """Share of the problems of whose answer each token is the single most likely one."""
    neg_log_pass_rate_error: float | None
    """Standard error over problems; None if there is only one."""
    accuracy_error: float | None
    num_problems: int

    @classmethod
    def of(cls, neg_log_pass_rate_N: Floats, is_right_N: Floats) -> "TaskResult":
        """The result of N problems. `is_right_N`: 1 for each that is answered right, else 0."""
        (rate, rate_error), (accuracy, accuracy_error) = map(_mean, (neg_log_pass_rate_N, is_right_N))
        return cls(rate, accuracy, rate_error, accuracy_error, len(is_right_N))

    def __str__(self) -> str:
        return f"-log(pass rate) {self.neg_log_pass_rate:.4f}, accuracy {self.accuracy:.1%}"

    def as_metrics(self, task: str) -> dict[str, float]:
        """What is known of it by the names of metrics."""
        rate, accuracy = f"{NEG_LOG_PASS_RATE}/{task}", f"{ACCURACY}/{task}"
        values = {
            rate: self.neg_log_pass_rate,
            error_of(rate): self.neg_log_pass_rate_error,
            accuracy: self.accuracy,
            error_of(accuracy): self.accuracy_error,
            f"num_problems/{task}": self.num_problems,
        }
        return {name: value for name, value in values.items() if value is not None}


def _mean(value_N: Floats) -> tuple[float, float | None]:
    """The mean of independent values, and its standard error, if there are two or more."""
    count = len(value_N)
    error = float(np.std(value_N, ddof=1)) / math.sqrt(count) if count > 1 else None
    return float(np.mean(value_N)), error
