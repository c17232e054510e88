"""The callback through which all ranks agree on a stop or a checkpoint, and learn what the data stream did in a step.

It costs one small reduction per step, and a second one if samples can be padded, replaced or fetched from a server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.stream.batch import Replacement
from foretrain.data_pipeline.stream.left_out import LeftOut
from foretrain.parallel.groups import Groups
from foretrain.trainer.callbacks.base import Callback, Step
from foretrain.trainer.run.setup import Run

if TYPE_CHECKING:
    from foretrain.trainer.trainer import Trainer


class Telemetry(Callback):
    """Adds the metrics of the data stream to each step, and stops every rank if any rank was asked to stop."""

    def __init__(self, run: Run, groups: Groups) -> None:
        self.num_bad_samples = run.resume.num_bad_samples if run.resume else 0
        """Unreadable samples that were replaced since the start of the run."""
        self._max_bad_samples = run.config.data.max_bad_samples
        self._stop_after = run.config.train.stop_after
        self._samples_per_step = run.config.train.global_batch_size
        self._data, self._groups = run.data, groups
        # All ranks with the same place in data parallelism read the same samples: one of them reports.
        self._is_reporting_rank = groups.at.tp == groups.at.pp == groups.at.cp == 0
        sources = run.data.train.sources
        self._stores = [source.stream.store for source in sources]
        self._is_remote = not all(store.is_local for store in self._stores)
        self._has_sums = self._is_remote or run.config.data.packing == "best_fit" or self._max_bad_samples > 0
        self._names = [source.name for source in sources]
        self._samples_of_epoch = [source.samples.num_samples for source in sources]
        self._cache_counts_before = (0, 0)
        self._replaced: list[Replacement] = []

    def on_step(self, trainer: Trainer, step: Step) -> None:
        """Raise CorpusError, on every rank, if more samples were unreadable than `data.max_bad_samples`."""
        facts = (trainer.stop_request.asked, trainer.is_checkpoint_due, trainer.checkpoints.is_busy)
        mine = [*map(float, facts), step.data_wait_s]
        asked, due, writing, longest_wait_s = self._reduce(mine, dist.ReduceOp.MAX)
        step.save |= due > 0
        step.is_writing = writing > 0
        if asked:
            step.stop = "signal"
        elif step.number == self._stop_after:
            step.stop = "stop_after"
        step.metrics["data_wait_s"] = longest_wait_s
        step.metrics |= self._mixture(step.number * self._samples_per_step, trainer.left_out)
        if self._has_sums:
            self._add_stream_metrics(step)

    def after_step(self, trainer: Trainer, step: Step) -> None:
        for each in self._replaced:
            trainer.report.event(
                "replaced",
                step.number,
                asdict(each),
                f"step {step.number}: sample {each.g} cannot be read and was replaced: {each.why} "
                f"(shard {each.shard}, byte {each.offset_bytes})",
            )

    def _add_stream_metrics(self, step: Step) -> None:
        batch = step.batch
        mine = [float(len(batch.replaced)), float(batch.num_padding), *map(float, self._new_cache_counts())]
        sums = self._reduce(mine if self._is_reporting_rank else [0.0] * len(mine), dist.ReduceOp.SUM)
        num_bad, num_padding, hits, misses = map(int, sums)
        step.metrics["padding"] = num_padding / (self._samples_per_step * self._data.train.seq_len)
        if self._is_remote:
            step.metrics |= {"cache_hits": hits, "cache_misses": misses}
        self._replaced = self._gather(batch.replaced) if num_bad else []
        if self._max_bad_samples:
            self.num_bad_samples += num_bad
            step.metrics["bad_samples"] = self.num_bad_samples
            self._check_bad_samples(self._replaced)

    def _mixture(self, samples_consumed: int, left_out: LeftOut) -> dict[str, float]:
        """Epochs of each source and, if there are several sources, the share of the samples that each has given."""
        mixture, end = self._data.train.mixture, left_out.number(samples_consumed)
        counts = mixture.counts(end)
        for first, stop in left_out.ranges:
            if first < end:
                counts = counts - (mixture.counts(stop) - mixture.counts(first))
        metrics = {}
        for name, count, size in zip(self._names, counts, self._samples_of_epoch, strict=True):
            metrics[f"epochs/{name}" if name else "epochs"] = int(count) / size
            if name:
                metrics[f"mixture/{name}"] = int(count) / samples_consumed
        return metrics

    def _new_cache_counts(self) -> tuple[int, int]:
        """Shards of remote sources that were opened since the last step: (found in the cache, fetched)."""
        counts = [store.counts for store in self._stores if not store.is_local]
        now = sum(count.hits for count in counts), sum(count.misses for count in counts)
        new = now[0] - self._cache_counts_before[0], now[1] - self._cache_counts_before[1]
        self._cache_counts_before = now
        return new

    def _check_bad_samples(self, replaced: Sequence[Replacement]) -> None:
        if self.num_bad_samples > self._max_bad_samples:
            latest = replaced[-1]
            raise CorpusError(
                f"{self.num_bad_samples} samples were unreadable, more than data.max_bad_samples = "
                f"{self._max_bad_samples}; the latest: {latest.why} (sample {latest.g}). Repair the data "
                "(`foretrain data verify` lists every fault), or raise data.max_bad_samples"
            )

    def _reduce(self, values: Sequence[float], op: dist.ReduceOp.RedOpType) -> list[float]:
        if self._groups.layout.world_size == 1:
            return [*values]
        tensor = torch.tensor(values, dtype=torch.float64)  # in host memory, so that no rank waits for its device
        dist.all_reduce(tensor, op=op, group=self._groups.cpu)
        return tensor.tolist()

    def _gather(self, replaced: list[Replacement]) -> list[Replacement]:
        everyones: list[list[Replacement]] = [[]] * self._groups.layout.world_size
        dist.all_gather_object(everyones, replaced if self._is_reporting_rank else [], group=self._groups.cpu)
        return sorted((each for one in everyones for each in one), key=lambda each: each.g)
