"""The loss on held-out samples, always the same ones."""

import numpy as np

from foretrain.data_pipeline.stream.batch import IGNORE, Batch, IntArray
from foretrain.data_pipeline.stream.held_out import held_out
from foretrain.parallel.engine import Engine
from foretrain.parallel.groups import Groups
from foretrain.trainer.objectives.base import Objective
from foretrain.trainer.run.setup import Run


class Evaluation:
    """Evaluates the model of `engine`. Every rank makes one, and calls it together."""

    def __init__(self, run: Run, groups: Groups, engine: Engine, objective: Objective) -> None:
        self._engine, self._objective = engine, objective
        self._size = run.config.train.global_batch_size
        self._share = groups.share.samples(self._size)
        self._batches = _held_out(run) if run.config.train.eval_samples else {}

    def __call__(self) -> tuple[float, dict[str, float]]:
        """Mean loss, nats per token: of all held-out samples, and of those of each source that has a name."""
        sums = {name: self._sums(batch) for name, batch in self._batches.items()}
        total, count = map(sum, zip(*sums.values(), strict=True))
        return total / count, {name: loss / num_tokens for name, (loss, num_tokens) in sums.items() if name}

    def _sums(self, batch: Batch) -> tuple[float, int]:
        """(sum of losses, number of tokens) over the samples of a batch of any size."""
        total, count = 0.0, 0
        for first in range(0, len(batch.tokens_BL), self._size):
            part = _filled_up(batch, range(first, first + self._size)[self._share])
            loss, num_tokens = self._engine.eval_step(*self._objective.tensors(part))
            total, count = total + loss, count + num_tokens
        return total, count


def _held_out(run: Run) -> dict[str, Batch]:
    """The samples of every evaluation by source: as many of each as its weight asks for, but one at the least."""
    config, sources = run.config, run.data.held_out
    total_weight = sum(source.weight for source in sources)
    counts = [max(1, round(config.train.eval_samples * source.weight / total_weight)) for source in sources]
    with_positions = run.data.train.has_positions
    return {
        source.name: held_out(source.stream, config.model.seq_len, count, with_positions=with_positions)
        for source, count in zip(sources, counts, strict=True)
    }


def _filled_up(batch: Batch, rows: range) -> Batch:
    """The samples in `rows`; those beyond the end of the batch carry no loss."""

    def fill(array: IntArray, value: int) -> IntArray:
        part = array[rows.start : rows.stop]
        return np.pad(part, ((0, len(rows) - len(part)), (0, 0)), constant_values=value)

    positions_BL = None if batch.positions_BL is None else fill(batch.positions_BL, 0)
    filled = Batch(fill(batch.tokens_BL, 0), fill(batch.targets_BL, IGNORE), positions_BL)
    filled.samples_B = np.array(rows)
    return filled
