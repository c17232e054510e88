"""What all ranks have to tell one another after a step: whether to stop, and what the data stream did.

It costs one small reduction a step, and a second one where samples can be padded, replaced or fetched.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from foretrain.configs.schema import Config
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.stream.batch import Batch, Replacement
from foretrain.data_pipeline.stream.data import Data
from foretrain.parallel.groups import Groups


@dataclass(frozen=True)
class StepNews:
    """The same on every rank."""

    stop: bool
    """Whether any rank was asked to stop."""
    metrics: dict[str, float]
    """By name, as in the record of the run."""
    replaced: list[Replacement] = field(default_factory=list)
    """Samples of this step that stand in for unreadable ones."""


class Telemetry:
    """Gathers the news of each step. Every rank makes one, and calls it once a step."""

    def __init__(self, config: Config, data: Data, groups: Groups, num_bad_samples: int = 0) -> None:
        """`num_bad_samples`: those that were replaced before this session."""
        self.num_bad_samples = num_bad_samples
        self._max_bad_samples = config.data.max_bad_samples
        self._samples_per_step = config.train.global_batch_size
        self._data, self._groups = data, groups
        # Ranks of one dp rank read the same samples: one of them speaks.
        self._speaks = groups.at.tp == groups.at.pp == groups.at.cp == 0
        self._stores = [source.stream.store for source in data.train.sources]
        is_remote = not all(store.is_local for store in self._stores)
        self._has_sums = is_remote or config.data.packing == "best_fit" or config.data.max_bad_samples > 0
        self._is_remote = is_remote
        self._names = [source.name for source in data.train.sources]
        self._samples_of_epoch = [source.samples.num_samples for source in data.train.sources]
        self._cache_before = (0, 0)

    def exchange(self, samples_consumed: int, batch: Batch, wait_s: float, asked_to_stop: bool) -> StepNews:
        """The news of the step after which `samples_consumed` samples are consumed.

        Raises CorpusError, on every rank, once more samples were unreadable than the run puts up with.
        """
        stop, longest_wait_s = self._reduce([float(asked_to_stop), wait_s], dist.ReduceOp.MAX)
        metrics = {"data_wait_s": longest_wait_s, **self._mixture(samples_consumed)}
        if not self._has_sums:
            return StepNews(stop > 0, metrics)
        mine = [float(len(batch.replaced)), float(batch.num_padding), *map(float, self._cache_counts())]
        sums = self._reduce(mine if self._speaks else [0.0] * len(mine), dist.ReduceOp.SUM)
        num_bad, num_padding, hits, misses = map(int, sums)
        metrics["padding"] = num_padding / (self._samples_per_step * self._data.train.seq_len)
        if self._is_remote:
            metrics |= {"cache_hits": hits, "cache_misses": misses}
        replaced = self._gather(batch.replaced) if num_bad else []
        if self._max_bad_samples:
            self.num_bad_samples += num_bad
            metrics["bad_samples"] = self.num_bad_samples
            self._check(replaced)
        return StepNews(stop > 0, metrics, replaced)

    def _mixture(self, samples_consumed: int) -> dict[str, float]:
        """Epochs of each source, and, where there are several, the share of the samples that each has given."""
        counts = self._data.train.mixture.counts(samples_consumed)
        metrics = {}
        for name, count, size in zip(self._names, counts, self._samples_of_epoch, strict=True):
            metrics[f"epochs/{name}" if name else "epochs"] = int(count) / size
            if name:
                metrics[f"mixture/{name}"] = int(count) / samples_consumed
        return metrics

    def _cache_counts(self) -> tuple[int, int]:
        """Shards of remote sources that were opened since the last step: (already there, had to be fetched)."""
        counts = [store.counts for store in self._stores if not store.is_local]
        now = sum(count.hits for count in counts), sum(count.misses for count in counts)
        new = now[0] - self._cache_before[0], now[1] - self._cache_before[1]
        self._cache_before = now
        return new

    def _check(self, replaced: Sequence[Replacement]) -> None:
        if self.num_bad_samples > self._max_bad_samples:
            latest = replaced[-1]
            raise CorpusError(
                f"{self.num_bad_samples} samples were unreadable, more than data.max_bad_samples = "
                f"{self._max_bad_samples}; the latest: {latest.why} (sample {latest.g}). Mend the data "
                "(`foretrain data verify` lists every fault), or raise data.max_bad_samples"
            )

    def _reduce(self, values: Sequence[float], op: dist.ReduceOp.RedOpType) -> list[float]:
        tensor = torch.tensor(values, dtype=torch.float64, device=self._groups.device)
        dist.all_reduce(tensor, op=op)
        return tensor.tolist()

    def _gather(self, replaced: list[Replacement]) -> list[Replacement]:
        everyones: list[list[Replacement]] = [[]] * self._groups.layout.world_size
        dist.all_gather_object(everyones, replaced if self._speaks else [])
        return sorted((each for one in everyones for each in one), key=lambda each: each.g)
