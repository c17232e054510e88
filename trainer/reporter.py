"""What a run tells while it goes on: rank 0 shows it and writes it down."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict

from foretrain.data_pipeline.stream.batch import Replacement
from foretrain.trainer.metrics import MetricsWriter
from foretrain.trainer.progress import Progress
from foretrain.trainer.setup import Run


class Reporter(ExitStack):
    """Shows and writes what happens, on rank 0; on the others it is silent. A context manager."""

    def __init__(self, run: Run, rank: int) -> None:
        super().__init__()
        self._outlets: tuple[Progress, MetricsWriter] | None = None
        if rank == 0:
            progress = Progress(run.total_steps, run.tokens_per_step, run.config.train.log_every, run.start_step)
            metrics = MetricsWriter(run.run_dir, run.start_step)
            self._outlets = self.enter_context(progress), self.enter_context(metrics)

    def step(self, line: Mapping[str, float]) -> None:
        """One optimizer step."""
        for outlet in self._outlets or ():
            outlet.step(line)

    def eval(self, step: int, val_loss: float, by_source: Mapping[str, float]) -> None:
        """One evaluation."""
        for outlet in self._outlets or ():
            outlet.eval(step, val_loss, by_source)

    def replaced(self, step: int, replacement: Replacement) -> None:
        """A sample of this step could not be read."""
        if self._outlets is not None:
            progress, metrics = self._outlets
            progress.say(
                f"step {step}: sample {replacement.g} was replaced, for it cannot be read: {replacement.why} "
                f"(shard {replacement.shard}, byte {replacement.offset_bytes})"
            )
            metrics.note("replaced", step, asdict(replacement))

    def data_changed(self, step: int, change: str) -> None:
        """The data are not those of the steps before, as the user allowed."""
        if self._outlets is not None:
            progress, metrics = self._outlets
            progress.say(f"from step {step + 1} on the data have changed: {change}")
            metrics.note("data_changed", step, {"change": change})

    def say(self, text: str) -> None:
        """A line on the terminal."""
        if self._outlets is not None:
            self._outlets[0].say(text)
