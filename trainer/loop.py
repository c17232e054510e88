"""The training loop of one rank."""

import math
import os
import time
from contextlib import closing
from dataclasses import replace

import torch
import torch.distributed as dist

from foretrain.data_pipeline.corpus.manifest import TOKENIZER
from foretrain.data_pipeline.stream.batches import Batches, Prefetcher
from foretrain.parallel import groups as parallel_groups
from foretrain.parallel.groups import Groups
from foretrain.trainer import schedule, stage_timing, stopping
from foretrain.trainer.build import build_engine
from foretrain.trainer.checkpoint import Checkpoints
from foretrain.trainer.consistency import Consistency
from foretrain.trainer.evaluation import Evaluation, tensors
from foretrain.trainer.finish import finish
from foretrain.trainer.reporter import Reporter
from foretrain.trainer.run_folder import CHECKPOINTS
from foretrain.trainer.setup import Run
from foretrain.trainer.telemetry import StepNews, Telemetry


class DivergedError(RuntimeError):
    """The loss or the gradient is no longer a number."""


class Trainer:
    """One rank of a run: the model, the data of this rank, and the steps."""

    def __init__(self, run: Run, groups: Groups) -> None:
        config = run.config
        self.run, self.groups = run, groups
        self.engine, self.state = build_engine(config, groups)
        self.checkpoints = Checkpoints(run.run_dir / CHECKPOINTS, config.train.keep_checkpoints)
        if run.resume is not None:
            self.checkpoints.load(run.resume.checkpoint, self.state, run.start_step)
        fingerprints = f"{run.data.fingerprint} {run.data.mixture_fingerprint}"
        self.consistency = Consistency(self.state, config, fingerprints)
        num_bad = run.resume.num_bad_samples if run.resume else 0
        self.telemetry = Telemetry(config, run.data, groups, num_bad)
        self.batches = Batches(
            run.data.train,
            config.train.global_batch_size,
            groups.at.dp,
            run.layout.dp,
            run.data.samples_in(config.data.cache.prefetch_gb),
        )
        self.evaluate = Evaluation(run, groups, self.engine)

    def fit(self, show: Reporter) -> None:
        """Train from the start step to the end of the budget, or to where the run is asked to stop.

        Raises SystemExit(EXIT_RESUME) once a signal's checkpoint is written, and DivergedError.
        """
        run, train = self.run, self.run.config.train
        stop = stopping.catch_signals()
        start = run.start_step * train.global_batch_size
        steps = range(run.start_step + 1, run.total_steps + 1)
        with closing(Prefetcher(self.batches, start, len(steps), run.config.data.prefetch_batches)) as batches:
            if train.check_every:
                self.consistency.check(run.start_step, start)
            for step in steps:
                news = self._train_step(step, batches, stop, show)
                is_last = step == run.total_steps
                ends_early = not is_last and (news.stop or step == train.stop_after)
                saves = is_last or ends_early or _is_due(step, train.checkpoint_every)
                if train.check_every and (saves or _is_due(step, train.check_every)):
                    self.consistency.check(step, batches.samples_consumed)
                if train.eval_samples and (is_last or _is_due(step, train.eval_every)):
                    show.eval(step, *self.evaluate())
                if saves:
                    self.save(step)
                if ends_early:
                    show.say(f"stopped after step {step}, checkpoint saved: the same command goes on from here")
                    if news.stop:
                        stopping.leave()
                    return

    def _train_step(self, step: int, batches: Prefetcher, stop: stopping.StopRequest, show: Reporter) -> StepNews:
        run = self.run
        started_s = time.perf_counter()
        batch = next(batches)
        before = (step - 1) * run.tokens_per_step
        factor = schedule.factor(before, run.tokens_per_step, run.config.train.num_tokens, run.config.schedule)
        self.engine.set_lr(factor)
        result = self.engine.train_step(*tensors(batch))
        step_s = time.perf_counter() - started_s
        news = self.telemetry.exchange(batches.samples_consumed, batch, batches.wait_s, stop.asked)
        show.step(
            {
                "step": step,
                "samples": step * run.config.train.global_batch_size,
                "tokens": step * run.tokens_per_step,
                "loss": result.loss,
                "grad_norm": result.grad_norm,
                "lr": run.config.optimizer.lr * factor,
                "tokens_per_s": run.tokens_per_step / step_s,
                "step_s": step_s,
                **news.metrics,
            }
        )
        for each in news.replaced:
            show.replaced(step, each)
        if not math.isfinite(result.loss) or not math.isfinite(result.grad_norm):
            raise DivergedError(
                f"step {step}: loss {result.loss}, gradient norm {result.grad_norm}: training has diverged. Lower "
                f"optimizer.lr or optimizer.clip_norm, or lengthen schedule.warmup_tokens, in a new run_dir"
            )
        return news

    def save(self, step: int) -> None:
        """Write a checkpoint of the state after `step` steps."""
        data = self.run.data
        record = {
            "step": step,
            **data.state(step * self.run.config.train.global_batch_size),
            "sources": data.fingerprints,
            "num_bad_samples": self.telemetry.num_bad_samples,
            "eot_id": data.any_stream.eot_id,
        }
        # With its tokenizer a checkpoint can be generated from wherever the corpus is.
        attached = [data.any_stream.store.path(TOKENIZER)]
        self.checkpoints.save(step, self.state, record, self.run.config, attached)


def train_rank(run: Run) -> None:
    """Be one rank of `run`; the launcher calls it in each process, with RANK and its kin in the environment."""
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    groups = parallel_groups.start(run.layout, run.config.train.device, run.config.parallel.timeout_s)
    _check_same_start(run, groups)
    if run.measures_stages:
        groups.layout = stage_timing.settle(run.config.model, run.config.train, groups, run.run_dir)
        run = replace(run, layout=groups.layout)
    trainer = Trainer(run, groups)
    with Reporter(run, groups.rank) as show:
        if run.measures_stages:
            sizes = stage_timing.stage_layers(run.layout, run.config.model)
            show.say(f"blocks of the stages, as measured: {sizes} (parallel.stage_layers={sizes} keeps them)")
        for change in run.resume.data_changes if run.resume else ():
            show.data_changed(run.start_step, change)
        trainer.fit(show)
    parallel_groups.stop()
    if groups.rank == 0 and trainer.checkpoints.has(run.total_steps):
        finish(run)


def _check_same_start(run: Run, groups: Groups) -> None:
    """End, to be started again, where ranks have found different checkpoints: one was written while they looked."""
    steps = torch.tensor([run.start_step, -run.start_step], device=groups.device)
    dist.all_reduce(steps, dist.ReduceOp.MAX)
    last, first = int(steps[0]), -int(steps[1])
    if first != last:
        if groups.rank == 0:
            print(f"some ranks would go on from step {first}, others from step {last}: all look again", flush=True)
        stopping.leave()


train_rank.on_start = stopping.catch_signals  # type: ignore[attr-defined]


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
