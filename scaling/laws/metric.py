"""Which metrics of an evaluation a law can be fitted to, and what they are called. Pure.

A law of this project is a sum of power laws. The loss is one of compute, and so was the mean of -log(pass rate) of
programming problems in the GPT-4 report (arXiv 2303.08774, section 3.2). An accuracy is not: it ends at 1, and stays
near 0 until models are large enough.
"""

from foretrain.trainer.metrics import ACCURACY, ACCURACY_NORM, NEG_LOG_PASS_RATE, VAL_LOSS


def check_metric(metric: str) -> None:
    """Raise ValueError, with what to do, if no law can be fitted to a metric."""
    kind, _, name = metric.partition("/")
    if kind in (ACCURACY, ACCURACY_NORM):
        raise ValueError(
            f"--metric {metric}: an accuracy is no sum of power laws, since it ends at 1 and stays near 0 until models "
            f"are large enough: fit {NEG_LOG_PASS_RATE}/{name or 'TASK'}, which changes at every size"
        )
    if kind not in (VAL_LOSS, NEG_LOG_PASS_RATE) or metric == NEG_LOG_PASS_RATE or metric.endswith("/"):
        raise ValueError(
            f"--metric {metric}: laws can be fitted to {VAL_LOSS}, {VAL_LOSS}/SOURCE and {NEG_LOG_PASS_RATE}/TASK: "
            "use one of these"
        )


def task_of(metric: str) -> str:
    """The task of a metric; "" if it is that of no task."""
    kind, _, name = metric.partition("/")
    return name if kind in (ACCURACY, ACCURACY_NORM, NEG_LOG_PASS_RATE) else ""


def label_of(metric: str) -> str:
    """What a metric is, with its unit, for pictures."""
    if metric == VAL_LOSS:
        return "loss (nats per token)"
    return f"{metric} (nats)" if task_of(metric) else f"{metric} (nats per token)"
