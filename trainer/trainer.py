"""The training loop of one rank."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from typing import Any

from foretrain.data_pipeline.corpus.manifest import TOKENIZER
from foretrain.data_pipeline.stream.batches import Batches, Prefetcher
from foretrain.parallel.groups import Groups
from foretrain.trainer import schedule
from foretrain.trainer.anomalies.return_to_checkpoint import prepare_rollbacks, roll_back
from foretrain.trainer.anomalies.rollbacks import Rollback, left_out_by
from foretrain.trainer.anomalies.watch import DivergedError, Watch
from foretrain.trainer.build import build_engine
from foretrain.trainer.callbacks.announcement import Announcement
from foretrain.trainer.callbacks.base import CALLBACKS, Callback, Outcome, Step
from foretrain.trainer.callbacks.checkpoints import CheckpointWriter
from foretrain.trainer.callbacks.compilation import CompilationReport
from foretrain.trainer.callbacks.consistency import ConsistencyCheck
from foretrain.trainer.callbacks.device import DeviceMetrics
from foretrain.trainer.callbacks.evaluation import PeriodicEvaluation
from foretrain.trainer.callbacks.goodput import Goodput
from foretrain.trainer.callbacks.lock import LockWatch
from foretrain.trainer.callbacks.memory import MemoryCheck
from foretrain.trainer.callbacks.prediction import PredictionWatch
from foretrain.trainer.callbacks.profile import StepProfile
from foretrain.trainer.callbacks.replay import ReplayCheck
from foretrain.trainer.callbacks.stragglers import StragglerWatch
from foretrain.trainer.callbacks.telemetry import Telemetry
from foretrain.trainer.callbacks.watch import HangWatch, watched_load
from foretrain.trainer.checkpoint.files import Checkpoints, SaveError
from foretrain.trainer.checkpoint.loading import load, load_initial, load_newest
from foretrain.trainer.checkpoint.places import Place
from foretrain.trainer.checkpoint.record import CheckpointRecord
from foretrain.trainer.checkpoint.retention import Retention
from foretrain.trainer.consistency.check import Consistency, InconsistentRanksError
from foretrain.trainer.consistency.memory import UnchangedState
from foretrain.trainer.consistency.replay import Replay
from foretrain.trainer.evaluation import Evaluation
from foretrain.trainer.garbage import FixedCollections
from foretrain.trainer.goodput.clock import Clock
from foretrain.trainer.objectives.base import objective_of
from foretrain.trainer.run.setup import Run
from foretrain.trainer.run.stopping import StopRequest, watch_signals
from foretrain.trainer.shared_batches import SharedBatches
from foretrain.trainer.sinks import JsonLinesSink, Reporter, RunLogSink, Session, Sink
from foretrain.trainer.sinks.chosen import make_sinks
from foretrain.trainer.tasks.evaluation import TaskEvaluation


class Trainer:
    """One rank of a run: its part of the model, its share of the data, and the loop over the steps.

    Every rank makes one, with the same arguments. `groups` are the process groups of `run.layout`. The config's own
    callbacks and sinks come first; `callbacks` and `sinks` are added to them. Loads the checkpoint that `run` resumes
    from, if there is one.

    Attributes that callbacks may use: `run`, `groups`, `engine`, `state`, `consistency`, `checkpoints`, `report` (the
    Reporter, which reports on rank 0 only), `stop_request`, `samples_consumed`, `rollbacks` (the run's own so far), and
    `left_out` (the global samples that the run leaves out).
    """

    def __init__(
        self, run: Run, groups: Groups, *, callbacks: Sequence[Callback] = (), sinks: Sequence[Sink] = ()
    ) -> None:
        config = run.config
        self._clock = Clock("start_up")
        self.run, self.groups = run, groups
        self.engine, self.state = build_engine(config, groups, is_loaded=bool(run.resume or run.init))
        # Kept from the start, since the file could be missing when a checkpoint is written. Rank 0 alone writes it.
        self._tokenizer = run.data.any_stream.read_tokenizer() if groups.rank == 0 else b""
        self.checkpoints = Checkpoints(run.checkpoints.place, Retention.of(config.train))
        self.run = run = self._load(run)
        self.left_out = run.left_out
        self.rollbacks = list(run.resume.rollbacks) if run.resume else []
        fingerprints = f"{run.data.fingerprint} {run.data.mixture_fingerprint}"
        self.consistency = Consistency(self.state, config, fingerprints)
        self._objective = objective_of(config)(config)
        self._is_full = self._objective.keeps_targets() and not run.data.train.has_padding
        """Whether every target of every batch carries a loss."""
        self._telemetry, self._watch = Telemetry(run, groups), Watch(config.train)
        self._goodput = Goodput(self._clock, run, groups)
        added = [*(CALLBACKS.get(name)() for name in config.train.callbacks), *callbacks]
        on_gpus = [DeviceMetrics(config, groups)] if groups.device.type == "cuda" else []
        compiles = [CompilationReport(self._clock)] if config.train.compile else []
        first = [self._watch, Announcement(), self._telemetry, *compiles, self._goodput]
        profile = [StepProfile(run.run_dir, config.train)] if config.train.profile_steps else []
        self.callbacks: list[Callback] = [*first, *on_gpus, *profile, *added]
        if run.prediction is not None:
            self.callbacks.append(PredictionWatch(run.prediction))
        if config.train.check_memory:
            unchanged = UnchangedState(self.state, config.run_dir)
            self.callbacks.append(MemoryCheck(unchanged, config.train.check_every))
        if config.train.check_every:
            self.callbacks.append(ConsistencyCheck(self.consistency, config.train.check_every))
        if config.train.replay_every:
            self.callbacks.append(ReplayCheck(Replay(self.engine, self._objective), config.train.replay_every))
        if config.train.eval_samples:
            evaluation = Evaluation(run, groups, self.engine, self._objective)
            tasks = TaskEvaluation(run, groups, self.engine) if config.train.eval_tasks else None
            self.callbacks.append(PeriodicEvaluation(evaluation, config.train, tasks))
        self.callbacks += [LockWatch(run.run_dir), CheckpointWriter()]
        if groups.layout.world_size > 1:
            self.callbacks.append(StragglerWatch(self._clock))
            if config.parallel.hang_s:
                hangs = HangWatch()
                self.callbacks = [hangs.first, *self.callbacks, hangs]
        if run.callbacks_checkpoint:
            self._load_callbacks(CheckpointRecord.read(run.callbacks_checkpoint))
        self._sinks = [JsonLinesSink(), RunLogSink(), *make_sinks(config.train), *sinks]
        self.stop_request = StopRequest()

    def _load(self, run: Run) -> Run:
        """Load the checkpoint that the run starts with, if any, and return the run, which starts where that was."""
        if run.resume is not None:
            with watched_load(run, self.groups, self.engine):
                return load_newest(run, self.state)
        if run.init is not None:
            with watched_load(run, self.groups, self.engine):
                load_initial(run.init, self.state, with_optimizer=run.config.train.init_optimizer)
        return run

    def fit(self) -> Outcome:
        """Train from the start step to the end of the budget, or until the run is asked to stop.

        Catches the signals of `stopping.SIGNALS` while it runs. Raises DivergedError if a step is not sound and the
        config does not say how to continue, and what its callbacks raise.
        """
        run, outcome, number = self.run, Outcome(self.run.start_step, None), self.run.start_step
        run.run_dir.mkdir(parents=True, exist_ok=True)  # on every rank, since any callback may write there
        with ExitStack() as stack:
            stack.enter_context(closing(self._goodput))
            self.stop_request = stack.enter_context(watch_signals())
            self.report = stack.enter_context(Reporter(self._sinks if self.groups.rank == 0 else [], self._session()))
            self._batches = self._open_batches(number)
            stack.callback(lambda: self._batches.close())  # not always this one: a rollback opens others
            self._saved_s = time.monotonic()
            stack.enter_context(self._finishing_saves())
            stack.callback(self.call, "on_close")  # before that: what is finished after an error is not watched
            self.call("on_fit_start")
            prepare_rollbacks(self)
            garbage = stack.enter_context(FixedCollections())
            while number < run.total_steps:
                step = self._train_step(number + 1)
                if self._watch.anomaly and self._watch.wants_rollback:
                    self.call("on_rollback", step)
                    number = roll_back(self, step.number, self._watch.anomaly.reason)
                    continue
                number = step.number
                self.call("on_step", step)
                self._decide_end(step)
                self.report.step(step.metrics)
                self.call("after_step", step)
                garbage.end_step(number)
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

    def global_samples(self, step: int) -> tuple[int, int]:
        """The global numbers of the first and the last sample of a step."""
        size = self.run.config.train.global_batch_size
        return self.left_out.number((step - 1) * size), self.left_out.number(step * size - 1)

    @property
    def is_checkpoint_due(self) -> bool:
        """Whether `train.checkpoint_minutes` have passed on this rank since the last checkpoint, or since the start."""
        minutes = self.run.config.train.checkpoint_minutes
        return minutes > 0 and time.monotonic() - self._saved_s >= 60 * minutes

    def call(self, hook: str, *args: Any) -> None:
        """Call a hook of every callback, in their order."""
        for callback in self.callbacks:
            if callback.cause is None:  # most have none, and there are many calls in each step
                getattr(callback, hook)(self, *args)
            else:
                with self._clock.within(callback.cause):
                    getattr(callback, hook)(self, *args)

    def save(self, step: int, val_loss: float | None = None) -> Place:
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
            **data.state(step * config.train.global_batch_size, self.left_out),
            optimizer_steps=self.state.num_updates,
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

    def restart_from(self, checkpoint: Place, rollbacks: Sequence[Rollback]) -> None:
        """Go back to one of the run's own checkpoints, without the samples that `rollbacks` leave out.

        Every rank calls it. Raises DamagedError, on every rank, if what any rank reads is not what was written, and
        CorpusError if too few samples are left.
        """
        record, run = CheckpointRecord.read(checkpoint), self.run
        self.rollbacks, self.left_out = list(rollbacks), left_out_by(rollbacks, self.left_out.ranges)
        run.data.check_budget(run.total_steps * run.config.train.global_batch_size, self.left_out)
        load(checkpoint, self.state, record.num_updates)
        self._load_callbacks(record)
        self._telemetry.num_bad_samples = record.num_bad_samples
        self._batches.close()
        self._batches = self._open_batches(record.step)
        if run.config.train.check_every:
            self.consistency.check(record.step, self.samples_consumed)

    def _train_step(self, number: int) -> Step:
        run = self.run
        started_s = time.perf_counter()
        batch = next(self._batches)
        read_s = time.perf_counter() - started_s
        self.call("before_step", number, batch)
        started_s = time.perf_counter() - read_s  # what callbacks do is no part of the step
        before = (number - 1) * run.tokens_per_step
        factor = schedule.factor(before, run.tokens_per_step, run.config.train.num_tokens, run.config.schedule)
        self.engine.set_lr(factor)
        tensors, accepts = self._objective.tensors(batch), partial(self._accepts, number)
        result = self.engine.train_step(*tensors, accepts=accepts, is_full=self._is_full)
        self.state.num_updates += result.is_applied
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

    def _accepts(self, number: int, loss: float, grad_norm: float) -> bool:
        """Whether the update of a step is made."""
        for callback in self.callbacks:
            callback.before_update(self, number)  # its time is part of the step
        return self._watch.accepts(loss, grad_norm)

    def _decide_end(self, step: Step) -> None:
        every = self.run.config.train.checkpoint_every
        if step.is_last:
            step.stop = None
        step.save |= step.is_last or step.stop is not None or (every > 0 and step.number % every == 0)

    def _session(self) -> Session:
        run = self.run
        return Session(run.config, run.run_dir, run.start_step, run.total_steps, run.tokens_per_step)

    def _open_batches(self, after_step: int) -> Prefetcher | SharedBatches:
        """The batches of this rank after a step, which one rank reads for all that train on the same samples."""
        run, sharers = self.run, self.groups.same_samples
        size, data = run.config.train.global_batch_size, run.config.data
        start, prefetcher = after_step * size, None
        if sharers is None or sharers.rank() == 0:
            prefetch_samples = run.data.samples_in(data.cache.prefetch_gb)
            batches = Batches(run.data.train, size, self.groups.at.dp, run.layout.dp, prefetch_samples, self.left_out)
            num_batches = run.total_steps - after_step
            prefetcher = Prefetcher(batches, start, num_batches, data.prefetch_batches, lambda: self.stop_request.asked)
        if sharers is None:
            assert prefetcher is not None
            return prefetcher
        return SharedBatches(sharers, prefetcher, start, size)

    def _callbacks_with_state(self) -> Iterator[Callback]:
        return (callback for callback in self.callbacks if callback.name)

    def _load_callbacks(self, record: CheckpointRecord) -> None:
        for callback in self._callbacks_with_state():
            if callback.name in record.callbacks:
                callback.load_state(record.callbacks[callback.name])
