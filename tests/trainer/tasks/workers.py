"""What ranks do in the tests of evaluations on tasks."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.stream.batch import Batch
from foretrain.parallel.groups import destroy_groups, init_groups
from foretrain.parallel.loss import not_most_likely
from foretrain.parallel.tensor import TensorParallel
from foretrain.trainer.build import build_engine
from foretrain.trainer.evaluation import HeldOutError
from foretrain.trainer.run.setup import Run
from foretrain.trainer.tasks.evaluation import TaskEvaluation
from foretrain.trainer.tasks.held_out_text import HeldOutText
from foretrain.trainer.tasks.result import TaskResult
from foretrain.trainer.tasks.samples import TaskSamples


def evaluate(samples: TaskSamples | None, *runs: Run) -> list[dict[str, TaskResult]]:
    """What the initial model of each run gets, on the run's own tasks, and on `samples`."""
    torch.set_num_threads(1)
    found = []
    for run in runs:
        groups = init_groups(run.layout, "cpu", timeout_s=60.0)
        engine, _ = build_engine(run.config, groups)
        evaluation = TaskEvaluation(run, groups, engine)
        evaluation.tasks += [] if samples is None else [samples]
        found.append(evaluation())
    destroy_groups()  # once: the next groups would read the addresses of these
    return found


def with_unreadable_text(run: Run) -> str:
    """The HeldOutError of a rank, where rank 0 alone reads the text, and cannot."""

    def unreadable(self: HeldOutText) -> list[str]:
        raise CorpusError("the disk is gone")

    HeldOutText.documents = property(unreadable)  # type: ignore[assignment]
    groups = init_groups(run.layout, "cpu", timeout_s=60.0)
    engine, _ = build_engine(run.config, groups)
    try:
        TaskEvaluation(run, groups, engine)
    except HeldOutError as error:
        return str(error)
    finally:
        destroy_groups()
    return ""


def counting_prompts(samples: TaskSamples, *runs: Run) -> list[dict[str, TaskResult]]:
    """`evaluate` with the bug that the tokens of prompts count too."""
    real = TaskSamples.batch

    def batch(self: TaskSamples, *arguments: Any, **keywords: Any) -> Batch:
        found = real(self, *arguments, **keywords)
        before_L = np.arange(found.tokens_BL.shape[1])
        for row in range(len(found.tokens_BL)):
            last = int(before_L[found.targets_BL[row] >= 0].max(initial=0))
            found.targets_BL[row, :last] = found.tokens_BL[row, 1 : last + 1]
        return found

    TaskSamples.batch = batch  # type: ignore[method-assign]
    return evaluate(samples, *runs)


def with_one_rank_alone(samples: TaskSamples, *runs: Run) -> list[dict[str, TaskResult]]:
    """`evaluate` with the bug that a rank looks at its own part of the vocabulary only."""
    from foretrain.trainer.tasks import evaluation

    def alone(logits_LBV: Tensor, targets_BL: Tensor, tp: TensorParallel) -> Tensor:
        return not_most_likely(logits_LBV, targets_BL, TensorParallel())

    evaluation.not_most_likely = alone
    return evaluate(samples, *runs)
