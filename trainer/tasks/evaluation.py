"""The evaluation of the model on tasks, by teacher forcing: one forward pass over prompt and answer of each problem."""

from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from foretrain.parallel.engine import Engine
from foretrain.parallel.groups import Groups
from foretrain.parallel.loss import cross_entropy, not_most_likely
from foretrain.parallel.tensor import TensorParallel
from foretrain.trainer.run.setup import Run
from foretrain.trainer.tasks.result import TaskResult
from foretrain.trainer.tasks.samples import TaskSamples, samples_of


class TaskEvaluation:
    """Evaluates the model of `engine` on the tasks of `train.eval_tasks`. Every rank makes one, and calls it together.

    Rank 0 encodes the problems. The same ones are used at every step, in every layout, and in runs with other seeds.
    """

    def __init__(self, run: Run, groups: Groups, engine: Engine) -> None:
        self._engine, self._groups = engine, groups
        self._size, self._seq_len = run.config.train.global_batch_size, run.config.model.seq_len
        self._share = groups.share.samples(self._size)
        stream = run.data.any_stream
        self._eot_id, self._with_positions = stream.eot_id, run.data.train.has_positions
        message: list[Any] = [None]
        if groups.rank == 0:
            message = [samples_of(run.config, stream.read_tokenizer(), stream.eot_id)]
        dist.broadcast_object_list(message, group=groups.cpu, group_src=0)
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
        sums_MN = torch.cat(found, dim=1)[:, :count].contiguous()
        dist.broadcast(sums_MN, group=self._groups.cpu, group_src=0)  # with the same bits on every rank
        num_wrong_N, neg_log_N = sums_MN.numpy()
        return TaskResult.of(neg_log_N, (num_wrong_N == 0).astype(float))
