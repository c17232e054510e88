"""The evaluation of the model on tasks, by teacher forcing: one forward pass over prompt and answer, or each choice.

Shape letters: M measures, S samples of a task, B samples of a batch, L positions of a sample.
"""

from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from foretrain.data_pipeline.errors import CorpusError
from foretrain.faults import is_full, is_passing
from foretrain.parallel.engine import Engine
from foretrain.parallel.groups import Groups
from foretrain.parallel.loss import cross_entropy, not_most_likely
from foretrain.parallel.tensor import TensorParallel
from foretrain.trainer.evaluation import HeldOutError
from foretrain.trainer.run.setup import Run
from foretrain.trainer.tasks.held_out_text import HeldOutText
from foretrain.trainer.tasks.result import TaskResult
from foretrain.trainer.tasks.samples import TaskSamples, samples_of


class TaskEvaluation:
    """Evaluates the model of `engine` on the tasks of `train.eval_tasks`. Every rank makes one, and calls it together.

    Rank 0 makes and encodes the problems. The same ones are used at every step, in every layout, and in runs with other
    seeds. Every rank raises HeldOutError if the text of which they are made cannot be read.
    """

    def __init__(self, run: Run, groups: Groups, engine: Engine) -> None:
        self._engine, self._groups = engine, groups
        self._size, self._seq_len = run.config.train.global_batch_size, run.config.model.seq_len
        self._share = groups.share.samples(self._size)
        stream = run.data.any_stream
        self._eot_id, self._with_positions = stream.eot_id, run.data.train.has_positions
        message: list[Any] = [None]
        if groups.rank == 0:
            message = [_samples(run)]
        dist.broadcast_object_list(message, group=groups.cpu, group_src=0)
        if isinstance(message[0], HeldOutError):
            raise message[0]
        self.tasks: list[TaskSamples] = message[0]
        tp = TensorParallel.of(groups)
        # The cross entropy comes last, since it may overwrite the logits.
        self._measures = [partial(not_most_likely, tp=tp), partial(cross_entropy, tp=tp)]

    def __call__(self) -> dict[str, TaskResult]:
        """The result of each task by its name."""
        return {task.name: self._result(task) for task in self.tasks}

    def _result(self, task: TaskSamples) -> TaskResult:
        count, own = len(task.answers), self._share
        found = []
        for first in range(0, count, self._size):
            batch = task.batch(
                first + own.start,
                own.stop - own.start,
                self._seq_len,
                self._eot_id,
                with_positions=self._with_positions,
            )
            tokens_BL, targets_BL = torch.from_numpy(batch.tokens_BL), torch.from_numpy(batch.targets_BL)
            positions_BL = None if batch.positions_BL is None else torch.from_numpy(batch.positions_BL)
            found.append(self._engine.measure(self._measures, tokens_BL, targets_BL, positions_BL))
        sums_MS = torch.cat(found, dim=1)[:, :count].contiguous()
        dist.broadcast(sums_MS, group=self._groups.cpu, group_src=0)  # with the same bits on every rank
        num_wrong_S, neg_log_S = sums_MS.numpy()
        return task.result(neg_log_S, num_wrong_S)


def _samples(run: Run) -> "list[TaskSamples] | HeldOutError":
    """The samples of the run's tasks, or, for every rank to raise, why their text cannot be read."""
    stream = run.data.any_stream
    try:
        return samples_of(run.config, stream.read_tokenizer(), stream.eot_id, HeldOutText.of(run.data))
    except CorpusError as error:
        return HeldOutError(f"the text of tasks cannot be read: {error}", is_passing(error), is_full(error))
