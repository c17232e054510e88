"""The training loop of one rank."""

import math
import os
import time
from contextlib import ExitStack, closing
from dataclasses import replace

import numpy as np
import torch

from data_pipeline.batches import IGNORE, Batches, Prefetcher, held_out
from data_pipeline.manifest import TOKENIZER
from parallel import groups as parallel_groups
from parallel.groups import Groups
from trainer import schedule, stage_timing, stopping
from trainer.build import build_engine
from trainer.checkpoint import Checkpoints
from trainer.consistency import Consistency
from trainer.finish import finish
from trainer.metrics import MetricsWriter
from trainer.progress import Progress
from trainer.setup import CHECKPOINTS, Run


class DivergedError(RuntimeError):
    """The loss or the gradient is no longer a number."""


class Trainer:
    """One rank of a run: the model, the data of this rank, and the steps."""

    def __init__(self, run: Run, groups: Groups) -> None:
        config = run.config
        self.run, self.groups = run, groups
        self.engine, held = build_engine(config, groups)
        self.local_params = [local for local in held if not local.shared]
        self.checkpoints = Checkpoints(run.run_dir / CHECKPOINTS, config.train.keep_checkpoints)
        if run.checkpoint is not None:
            self.checkpoints.load(run.checkpoint, self.engine.zero, held, groups, run.start_step)
        self.consistency = Consistency(groups, self.engine.zero, held, config, run.train_data.fingerprint)
        self.batches = Batches(
            run.train_data,
            config.model.seq_len,
            config.train.global_batch_size,
            groups.at.dp,
            run.layout.dp,
            config.data.seed,
        )

    def fit(self, show: "Reporter") -> None:
        """Train from the start step to the end of the budget, or to where the run is asked to stop.

        Raises SystemExit(EXIT_RESUME) once a signal's checkpoint is written, and DivergedError.
        """
        run, train = self.run, self.run.config.train
        stop = stopping.StopRequest(self.groups)
        start = run.start_step * train.global_batch_size
        steps = range(run.start_step + 1, run.total_steps + 1)
        with closing(Prefetcher(self.batches, start, len(steps), run.config.data.prefetch_batches)) as batches:
            if train.check_every:
                self.consistency.check(run.start_step, start)
            for step in steps:
                self._train_step(step, batches, show)
                is_last = step == run.total_steps
                asked = stop.agreed()
                ends_early = not is_last and (asked or step == train.stop_after)
                saves = is_last or ends_early or _is_due(step, train.checkpoint_every)
                if train.check_every and (saves or _is_due(step, train.check_every)):
                    self.consistency.check(step, batches.samples_consumed)
                if train.eval_samples and (is_last or _is_due(step, train.eval_every)):
                    show.eval(step, self.evaluate())
                if saves:
                    self.save(step)
                if ends_early:
                    show.say(f"stopped after step {step}, checkpoint saved: the same command goes on from here")
                    if asked:
                        stopping.leave()
                    return

    def _train_step(self, step: int, batches: Prefetcher, show: "Reporter") -> None:
        run = self.run
        started_s = time.perf_counter()
        tokens, targets = next(batches)
        before = (step - 1) * run.tokens_per_step
        factor = schedule.factor(before, run.tokens_per_step, run.config.train.num_tokens, run.config.schedule)
        self.engine.set_lr(factor)
        result = self.engine.train_step(torch.from_numpy(tokens), torch.from_numpy(targets))
        step_s = time.perf_counter() - started_s
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
            }
        )
        if not math.isfinite(result.loss) or not math.isfinite(result.grad_norm):
            raise DivergedError(
                f"step {step}: loss {result.loss}, gradient norm {result.grad_norm}: training has diverged. Lower "
                f"optimizer.lr or optimizer.clip_norm, or lengthen schedule.warmup_tokens, in a new run_dir"
            )

    def evaluate(self) -> float:
        """Mean loss over the held-out samples, nats per token."""
        run, train = self.run, self.run.config.train
        tokens, targets = held_out(run.val_data, run.config.model.seq_len, train.eval_samples)
        total, count = 0.0, 0
        share = train.global_batch_size // run.layout.dp
        mine = slice(self.groups.at.dp * share, (self.groups.at.dp + 1) * share)
        for first in range(0, len(tokens), train.global_batch_size):
            chunk = slice(first, first + train.global_batch_size)
            missing = train.global_batch_size - len(
                tokens[chunk]
            )  # the last batch is filled up with samples of no loss
            padded_tokens = np.pad(tokens[chunk], ((0, missing), (0, 0)))
            padded_targets = np.pad(targets[chunk], ((0, missing), (0, 0)), constant_values=IGNORE)
            loss, num_tokens = self.engine.eval_step(
                torch.from_numpy(padded_tokens[mine]), torch.from_numpy(padded_targets[mine])
            )
            total, count = total + loss, count + num_tokens
        return total / count

    def save(self, step: int) -> None:
        """Write a checkpoint of the state after `step` steps."""
        record = {
            "step": step,
            "samples_consumed": step * self.run.config.train.global_batch_size,
            "data_fingerprint": self.run.train_data.fingerprint,
            "eot_id": self.run.train_data.eot_id,
        }
        # With its tokenizer a checkpoint can be generated from wherever the corpus is.
        attached = [self.run.train_data.folder / TOKENIZER]
        zero, config = self.engine.zero, self.run.config
        self.checkpoints.save(step, zero, self.local_params, self.groups, record, config, attached)


class Reporter(ExitStack):
    """Shows and writes what happens, on rank 0; on the others it is silent. A context manager."""

    def __init__(self, run: Run, rank: int) -> None:
        super().__init__()
        self._outlets: tuple[Progress, MetricsWriter] | None = None
        if rank == 0:
            progress = Progress(run.total_steps, run.tokens_per_step, run.config.train.log_every, run.start_step)
            metrics = MetricsWriter(run.run_dir, run.start_step)
            self._outlets = self.enter_context(progress), self.enter_context(metrics)

    def step(self, line: dict[str, float]) -> None:
        """One optimizer step."""
        for outlet in self._outlets or ():
            outlet.step(line)

    def eval(self, step: int, val_loss: float) -> None:
        """One evaluation."""
        for outlet in self._outlets or ():
            outlet.eval(step, val_loss)

    def say(self, text: str) -> None:
        """A line on the terminal."""
        if self._outlets is not None:
            self._outlets[0].say(text)


def train_rank(run: Run) -> None:
    """Be one rank of `run`; the launcher calls it in each process, with RANK and its kin in the environment."""
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    groups = parallel_groups.start(run.layout, run.config.train.device, run.config.parallel.timeout_s)
    if run.measures_stages:
        groups.layout = stage_timing.settle(run.config.model, run.config.train, groups, run.run_dir)
        run = replace(run, layout=groups.layout)
    trainer = Trainer(run, groups)
    with Reporter(run, groups.rank) as show:
        if run.measures_stages:
            sizes = stage_timing.stage_layers(run.layout, run.config.model)
            show.say(f"blocks of the stages, as measured: {sizes} (parallel.stage_layers={sizes} keeps them)")
        trainer.fit(show)
    parallel_groups.stop()
    if groups.rank == 0 and trainer.checkpoints.has(run.total_steps):
        finish(run)


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
