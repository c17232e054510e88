"""The loss on held-out samples, always the same ones, with its standard error.

The samples are windows spread evenly over the held-out stream of each source. Each source gives its share of them by
weight, and the loss of all samples is the mean of the sources' losses by weight. Each named set of held-out files has
as many samples as all sources together, and a loss of its own.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.distributed as dist

from foretrain.data_pipeline.corpus.shards import TokenStream
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.stream.batch import IntArray
from foretrain.data_pipeline.stream.held_out import NO_WINDOW, HeldOutSamples, documents_of, num_windows, spread
from foretrain.faults import is_full, is_passing
from foretrain.parallel.engine import Engine
from foretrain.parallel.groups import Groups
from foretrain.trainer.callbacks.base import HeldOutLoss
from foretrain.trainer.objectives.base import Objective
from foretrain.trainer.run.setup import Run
from foretrain.trainer.standard_error import Estimate, combined, estimate, rounded_up, samples_needed


@dataclass(frozen=True)
class Choice:
    """The number of samples that the standard error asked for needs."""

    num_samples: int
    standard_error: float | None
    """The standard error of the held-out loss with that many; None if it is not known."""
    is_reached: bool
    """Whether it is the one asked for, or smaller; else all held-out windows are samples."""


class Evaluation:
    """Evaluates the model of `engine`. Every rank makes one, and calls it together.

    The number of samples is `train.eval_samples`. With `train.eval_standard_error`, the first evaluation begins with
    that number, and takes more samples until the standard error is the one asked for; their number is then kept.
    """

    def __init__(self, run: Run, groups: Groups, engine: Engine, objective: Objective) -> None:
        self._engine, self._objective, self._groups = engine, objective, groups
        self._train, self._seq_len = run.config.train, run.config.model.seq_len
        self._share = groups.share.samples(self._train.global_batch_size)
        self._sources, self._with_positions = run.data.held_out, run.data.train.has_positions
        self._weights = [source.weight for source in self._sources]
        self._sets = {
            f"{source.name}/{name}".lstrip("/"): stream
            for source in self._sources
            for name, stream in source.sets.items()
        }
        # Another loss than that of the next token says nothing about the bits that the text needs.
        self._bytes_per_token = run.data.held_out_bytes_per_token if objective.is_causal else None
        self._held: _Held | None = None
        wanted = self._train.eval_standard_error
        self.num_samples = self._train.eval_samples if wanted is None else None
        """Samples of every evaluation; None: the next one chooses. A run that resumes sets it."""

    def read(self) -> None:
        """Read the samples of the next evaluation. Raises CorpusError, on every rank, if any rank cannot."""
        self._read(self.num_samples or self._train.eval_samples)

    def __call__(self) -> tuple[HeldOutLoss, Choice | None]:
        """The loss of the held-out samples, and the number of samples if this evaluation has chosen it."""
        if self.num_samples is None:
            loss, choice = self._choose()
        else:
            loss, choice = self._loss(self._estimates(self.num_samples)), None
        return self._with_sets(loss), choice

    def _choose(self) -> tuple[HeldOutLoss, Choice | None]:
        wanted, num_samples = self._train.eval_standard_error, self._train.eval_samples
        assert wanted is not None
        while True:
            estimates = self._estimates(num_samples)
            loss = self._loss(estimates)
            if not math.isfinite(loss.total):
                return loss, None  # a later evaluation may choose
            is_reached = loss.standard_error is not None and loss.standard_error <= wanted
            if is_reached or self._has_all(num_samples):
                self.num_samples = num_samples
                return loss, Choice(loss.num_samples or 0, loss.standard_error, is_reached)
            needed = samples_needed(estimates, self._weights, wanted) or 2 * num_samples
            num_samples = max(needed, rounded_up(num_samples + 1))

    def _loss(self, estimates: list[Estimate]) -> HeldOutLoss:
        total = combined(estimates, self._weights)
        named = [(source.name, each) for source, each in zip(self._sources, estimates, strict=True) if source.name]
        return HeldOutLoss(
            total.mean,
            {name: each.mean for name, each in named},
            total.standard_error,
            {name: each.standard_error for name, each in named if each.standard_error is not None},
            total.num_samples,
            bits_per_byte=None if self._bytes_per_token is None else total.mean / math.log(2) / self._bytes_per_token,
        )

    def _with_sets(self, loss: HeldOutLoss) -> HeldOutLoss:
        """The loss, together with those of the named sets on the samples that the last evaluation of it has read."""
        held = self._held
        assert held is not None
        first = len(self._sources)
        pairs = zip(held.samples[first:], held.documents[first:], strict=True)
        named = [(name, self._estimate(*each)) for name, each in zip(self._sets, pairs, strict=True)]
        errors = {name: each.standard_error for name, each in named if each.standard_error is not None}
        return replace(
            loss,
            by_source=loss.by_source | {name: each.mean for name, each in named},
            standard_error_by_source=loss.standard_error_by_source | errors,
        )

    def _estimates(self, num_samples: int) -> list[Estimate]:
        """The mean loss of each source."""
        held, count = self._read(num_samples), len(self._sources)
        return [self._estimate(*each) for each in zip(held.samples[:count], held.documents[:count], strict=True)]

    def _estimate(self, samples: HeldOutSamples, document_N: IntArray) -> Estimate:
        size, losses, counts = self._share.stop - self._share.start, [], []
        count = len(document_N)
        for number in range(-(-count // self._train.global_batch_size)):
            batch = samples.batch(slice(number * size, (number + 1) * size))
            loss_B, num_tokens_B = self._engine.eval_step(*self._objective.tensors(batch))
            losses.append(loss_B)
            counts.append(num_tokens_B)
        loss_N, num_tokens_N = torch.cat(losses)[:count], torch.cat(counts)[:count]
        # With the same bits on every rank, since what follows decides how many samples all of them take.
        dist.broadcast(loss_N, group=self._groups.cpu, group_src=0)
        return estimate(loss_N.numpy(), num_tokens_N.numpy(), document_N)

    def _counts(self, num_samples: int) -> list[int]:
        """The number of samples of each source: its share, but two at the least, which a standard error needs."""
        total, least = sum(self._weights), 1 if len(self._sources) == 1 else 2
        shares = [max(least, round(num_samples * weight / total)) for weight in self._weights]
        return [min(share, self._windows(source.stream)) for share, source in zip(shares, self._sources, strict=True)]

    def _windows(self, stream: TokenStream) -> int:
        return num_windows(stream, self._seq_len)

    def _has_all(self, num_samples: int) -> bool:
        """Whether these are all windows of each source that counts."""
        counts = self._counts(num_samples)
        return all(
            count == self._windows(source.stream) or not source.weight
            for count, source in zip(counts, self._sources, strict=True)
        )

    def _streams(self, num_samples: int) -> list[tuple[TokenStream, int]]:
        """The held-out stream of each source, then each named set, with its number of samples."""
        sources = [source.stream for source in self._sources]
        pairs = list(zip(sources, self._counts(num_samples), strict=True))
        return pairs + [(stream, min(num_samples, self._windows(stream))) for stream in self._sets.values()]

    def _read(self, num_samples: int) -> "_Held":
        if self._held is None or self._held.num_samples != num_samples:
            self._held = None  # before others are read, since there may be memory for one of them only
            problem, samples, documents = None, [], []
            try:
                for stream, count in self._streams(num_samples):
                    windows_N = spread(count, self._windows(stream))
                    samples.append(
                        HeldOutSamples(stream, self._seq_len, self._own(windows_N), with_positions=self._with_positions)
                    )
                    if self._groups.rank == 0:
                        documents.append(documents_of(stream, self._seq_len, windows_N))
            except CorpusError as error:
                problem = HeldOutError(f"held-out samples cannot be read: {error}", is_passing(error), is_full(error))
            self._held = _Held(num_samples, samples, self._agree(problem, documents))
        return self._held

    def _own(self, windows_N: IntArray) -> IntArray:
        """This rank's windows, filled up to complete batches."""
        size = self._train.global_batch_size
        filled = np.full(-(-len(windows_N) // size) * size, NO_WINDOW, dtype=np.int64)
        filled[: len(windows_N)] = windows_N
        return filled.reshape(-1, size)[:, self._share].ravel()

    def _agree(self, problem: "HeldOutError | None", documents: list[IntArray]) -> list[IntArray]:
        """The documents that rank 0 has found. Raises HeldOutError on every rank if any of them has a problem."""
        everyones: list[tuple[HeldOutError | None, list[IntArray]]] = [(None, [])] * self._groups.layout.world_size
        dist.all_gather_object(everyones, (problem, documents), group=self._groups.cpu)
        for each, _ in everyones:
            if each is not None:
                raise each
        return everyones[0][1]


class HeldOutError(CorpusError):
    """Held-out samples cannot be read. `is_passing`: they may be readable later. `is_full`: a disk has no room."""

    def __init__(self, message: str, is_passing: bool, is_full: bool = False) -> None:
        super().__init__(message)
        self.is_passing = is_passing
        self.is_full = is_full

    def __reduce__(self) -> tuple[type["HeldOutError"], tuple[str, bool, bool]]:  # an error that is sent keeps no cause
        return type(self), (str(self), self.is_passing, self.is_full)


@dataclass(frozen=True)
class _Held:
    """The samples of an evaluation in memory, by source and then by named set."""

    num_samples: int
    """The number that was asked for."""
    samples: list[HeldOutSamples]
    """This rank's part of them."""
    documents: list[IntArray]
    """The documents of all samples, by the positions at which they begin."""
