"""The training loop of one rank."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from foretrain.data_pipeline.corpus.manifest import TOKENIZER
from foretrain.data_pipeline.stream.batches import Batches, Prefetcher
from foretrain.parallel.groups import Groups
from foretrain.trainer import schedule
from foretrain.trainer.build import build_engine
from foretrain.trainer.callbacks.announcement import Announcement
from foretrain.trainer.callbacks.base import CALLBACKS, Callback, Outcome, Step
from foretrain.trainer.callbacks.checkpoints import CheckpointWriter
from foretrain.trainer.callbacks.consistency import ConsistencyCheck
from foretrain.trainer.callbacks.device import DeviceMetrics
from foretrain.trainer.callbacks.evaluation import PeriodicEvaluation
from foretrain.trainer.callbacks.stragglers import StragglerWatch
from foretrain.trainer.callbacks.telemetry import Telemetry
from foretrain.trainer.callbacks.watch import HangWatch
from foretrain.trainer.checkpoint.files import Checkpoints, SaveError
from foretrain.trainer.checkpoint.loading import load_initial, load_newest
from foretrain.trainer.checkpoint.record import CheckpointRecord
from foretrain.trainer.checkpoint.retention import Retention
from foretrain.trainer.consistency.check import Consistency, InconsistentRanksError
from foretrain.trainer.evaluation import Evaluation
from foretrain.trainer.objectives.base import objective_of
from foretrain.trainer.run.folder import CHECKPOINTS
from foretrain.trainer.run.setup import Run
from foretrain.trainer.run.stopping import StopRequest, watch_signals
from foretrain.trainer.shared_batches import SharedBatches
from foretrain.trainer.sinks import SINKS, JsonLinesSink, Reporter, Session, Sink


class DivergedError(RuntimeError):
    """The loss or the gradient norm is not a finite number."""


class Trainer:
    """One rank of a run: its part of the model, its share of the data, and the loop over the steps.

    Every rank makes one, with the same arguments. `groups` are the process groups of `run.layout`. The config's own
    callbacks and sinks come first; `callbacks` and `sinks` are added to them. Loads the checkpoint that `run` resumes
    from, if there is one.

    Attributes that callbacks may use: `run`, `groups`, `engine`, `state`, `consistency`, `checkpoints`, `report` (the
    Reporter, which reports on rank 0 only), `stop_request`, and `samples_consumed`.
    """

    def __init__(
        self, run: Run, groups: Groups, *, callbacks: Sequence[Callback] = (), sinks: Sequence[Sink] = ()
    ) -> None:
        config = run.config
        self.run, self.groups = run, groups
        self.engine, self.state = build_engine(config, groups, is_loaded=bool(run.resume or run.init))
        # Kept from the start, since the file could be missing when a checkpoint is written. Rank 0 alone writes it.
        self._tokenizer = run.data.any_stream.read_tokenizer() if groups.rank == 0 else b""
        self.checkpoints = Checkpoints(run.run_dir / CHECKPOINTS, Retention.of(config.train))
        if run.resume is not None:
            self.run = run = load_newest(run, self.state)
        elif run.init is not None:
            load_initial(run.init, self.state, with_optimizer=config.train.init_optimizer)
        fingerprints = f"{run.data.fingerprint} {run.data.mixture_fingerprint}"
        self.consistency = Consistency(self.state, config, fingerprints)
        self._objective = objective_of(config)(config)
        self._telemetry = Telemetry(run, groups)
        added = [*(CALLBACKS.get(name)() for name in config.train.callbacks), *callbacks]
        on_gpus = [DeviceMetrics(config, groups)] if groups.device.type == "cuda" else []
        self.callbacks: list[Callback] = [Announcement(), self._telemetry, *on_gpus, *added]
        if config.train.check_every:
            self.callbacks.append(ConsistencyCheck(self.consistency, config.train.check_every))
        if config.train.eval_samples:
            self.callbacks.append(
                PeriodicEvaluation(Evaluation(run, groups, self.engine, self._objective), config.train.eval_every)
            )
        self.callbacks.append(CheckpointWriter())
        if groups.layout.world_size > 1:
            self.callbacks += [StragglerWatch(), *([HangWatch()] if config.parallel.hang_s else [])]
        self._load_callbacks()
        self._sinks = [JsonLinesSink(), *(SINKS.get(name)() for name in config.train.sinks), *sinks]
        self.stop_request = StopRequest()

    def fit(self) -> Outcome:
        """Train from the start step to the end of the budget, or until the run is asked to stop.

        Catches the signals of `stopping.SIGNALS` while it runs. Raises DivergedError if the loss or the gradient norm
        is not finite, and what its callbacks raise.
        """
        run, outcome = self.run, Outcome(self.run.start_step, None)
        run.run_dir.mkdir(parents=True, exist_ok=True)  # on every rank, since any callback may write there
        with ExitStack() as stack:
            self.stop_request = stack.enter_context(watch_signals())
            self.report = stack.enter_context(Reporter(self._sinks if self.groups.rank == 0 else [], self._session()))
            self._batches = stack.enter_context(closing(self._open_batches()))
            self._saved_s = time.monotonic()
            stack.callback(self.call, "on_close")
            self.call("on_fit_start")
            stack.enter_context(self._finishing_saves())
            for number in range(run.start_step + 1, run.total_steps + 1):
                step = self._train_step(number)
                self.call("on_step", step)
                self._decide_end(step)
                self.report.step(step.metrics)
                self._check_finite(step)
                self.call("after_step", step)
                outcome = Outcome(number, step.stop)
                if step.stop:
                    self.report.message(
                        f"stopped after step {number}, checkpoint saved: the same command continues from here"
                    )
                    break
            self.call("on_fit_end", outcome)
        return outcome

    @contextmanager
    def _finishing_saves(self) -> Iterator[None]:
        """A block after whose errors that all ranks raise together the checkpoint before is still completed."""
        try:
            yield
        except (DivergedError, InconsistentRanksError):
            with suppress(SaveError):
                self.checkpoints.finish()
            raise

    @property
    def samples_consumed(self) -> int:
        """Samples that the optimizer has consumed since the start of the run, over all ranks."""
        return self._batches.samples_consumed

    @property
    def is_checkpoint_due(self) -> bool:
        """Whether `train.checkpoint_minutes` have passed on this rank since the last checkpoint, or since the start."""
        minutes = self.run.config.train.checkpoint_minutes
        return minutes > 0 and time.monotonic() - self._saved_s >= 60 * minutes

    def call(self, hook: str, *args: Any) -> None:
        """Call a hook of every callback, in their order."""
        for callback in self.callbacks:
            getattr(callback, hook)(self, *args)

    def save(self, step: int, val_loss: float | None = None) -> Path:
        """Write a checkpoint of the state after `step` steps, and return its folder. Every rank calls it.

        `val_loss` is the held-out loss after that step, if it is known.

        Raises SaveError, on every rank, if it, or one that is still being written, cannot be written.
        """
        before = self.checkpoints.finish()
        if before is not None:
            self.call("on_checkpoint", before)
        self.begin_save(step, val_loss)
        path = self.checkpoints.finish()
        assert path is not None
        return path

    def begin_save(self, step: int, val_loss: float | None = None) -> None:
        """Begin to write a checkpoint, as `save` does; the one before must be complete. Every rank calls it."""
        data, config = self.run.data, self.run.config
        record = CheckpointRecord(
            step=step,
            **data.state(step * config.train.global_batch_size),
            sources=data.fingerprints,
            num_bad_samples=self._telemetry.num_bad_samples,
            val_loss=val_loss,
            parent=self.run.parent,
            eot_id=data.any_stream.eot_id,
            callbacks={callback.name: callback.state() for callback in self._callbacks_with_state()},
        )
        # With its tokenizer beside it, a checkpoint can generate text wherever the corpus is.
        try:
            self.checkpoints.start(step, self.state, record, config, {TOKENIZER: self._tokenizer})
        finally:
            self._saved_s = time.monotonic()  # also if it failed: the next one is tried as much later

    def _train_step(self, number: int) -> Step:
        run = self.run
        started_s = time.perf_counter()
        batch = next(self._batches)
        before = (number - 1) * run.tokens_per_step
        factor = schedule.factor(before, run.tokens_per_step, run.config.train.num_tokens, run.config.schedule)
        self.engine.set_lr(factor)
        result = self.engine.train_step(*self._objective.tensors(batch))
        step_s = time.perf_counter() - started_s
        metrics = {
            "step": number,
            "samples": number * run.config.train.global_batch_size,
            "tokens": number * run.tokens_per_step,
            "loss": result.loss,
            "grad_norm": result.grad_norm,
            "lr": run.config.optimizer.lr * factor,
            "tokens_per_s": run.tokens_per_step / step_s,
            "step_s": step_s,
        }
        is_last = number == run.total_steps
        return Step(number, batch, self._batches.wait_s, metrics, is_last, phase_s=result.phase_s)

    def _decide_end(self, step: Step) -> None:
        every = self.run.config.train.checkpoint_every
        if step.is_last:
            step.stop = None
        step.save |= step.is_last or step.stop is not None or (every > 0 and step.number % every == 0)

    def _check_finite(self, step: Step) -> None:
        loss, grad_norm = step.metrics["loss"], step.metrics["grad_norm"]
        if not math.isfinite(loss) or not math.isfinite(grad_norm):
            raise DivergedError(
                f"step {step.number}: loss {loss}, gradient norm {grad_norm}: training has diverged. Lower "
                "optimizer.lr or optimizer.clip_norm, or lengthen schedule.warmup_tokens, in a new run_dir"
            )

    def _session(self) -> Session:
        run = self.run
        return Session(run.config, run.run_dir, run.start_step, run.total_steps, run.tokens_per_step)

    def _open_batches(self) -> Prefetcher | SharedBatches:
        """The batches of this rank, which one rank reads for all that train on the same samples."""
        run, sharers = self.run, self.groups.same_samples
        size, data = run.config.train.global_batch_size, run.config.data
        start, prefetcher = run.start_step * size, None
        if sharers is None or sharers.rank() == 0:
            prefetch_samples = run.data.samples_in(data.cache.prefetch_gb)
            batches = Batches(run.data.train, size, self.groups.at.dp, run.layout.dp, prefetch_samples)
            prefetcher = Prefetcher(batches, start, run.total_steps - run.start_step, data.prefetch_batches)
        if sharers is None:
            assert prefetcher is not None
            return prefetcher
        return SharedBatches(sharers, prefetcher, start, size)

    def _callbacks_with_state(self) -> Iterator[Callback]:
        return (callback for callback in self.callbacks if callback.name)

    def _load_callbacks(self) -> None:
        own = self.run.own_checkpoint
        states = CheckpointRecord.read(own).callbacks if own else {}
        for callback in self._callbacks_with_state():
            if callback.name in states:
                callback.load_state(states[callback.name])
