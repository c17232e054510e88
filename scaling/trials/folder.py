"""The trials of a study in a folder: finds those that are done, trains the others, and keeps results up to date."""

import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from foretrain.configs import load as configs
from foretrain.configs.schema import Config
from foretrain.launcher.launchers import LAUNCHERS
from foretrain.launcher.local.forwarding import Interrupt
from foretrain.launcher.local.slots import local_slots
from foretrain.parallel.layout import Layout
from foretrain.scaling.records import TRIALS
from foretrain.scaling.trials import record
from foretrain.scaling.trials.cluster import ClusterRunner
from foretrain.scaling.trials.local import LocalRunner
from foretrain.scaling.trials.progress import TrialProgress
from foretrain.scaling.trials.record import Outcome
from foretrain.scaling.trials.runner import Runner
from foretrain.scaling.trials.trial import Corpus, Trial
from foretrain.trainer.run.exit_status import EXIT_DONE, EXIT_FAILED, EXIT_RESUME
from foretrain.trainer.run.setup import prepare_run


def runner_of(config: Config, layout: Layout, out: Path, on: str, jobs: int | None, study: str) -> Runner:
    """The runner of trials in `out`, `jobs` at a time, with the launcher named `on`.

    `config` has the settings of the launch and the device, and `layout` the ranks of each trial. `study` is a word for
    the names of jobs. Raises ValueError if there is no such runner.
    """
    launcher, ranks = LAUNCHERS.get(on), layout.world_size
    if launcher.arrays is not None:
        return ClusterRunner(
            out, config, launcher, launcher.arrays, name=f"{study}-{out.name}", ranks=ranks, at_once=jobs
        )
    if not launcher.uses_one_machine:
        raise ValueError(f"--on {on}: this launcher starts single runs only, and no {study}s: choose another launcher")
    return LocalRunner(local_slots(ranks, on_gpus=config.train.device != "cpu", jobs=jobs))


def corpora(out: Path) -> Callable[[Config], Corpus]:
    """A function that returns the corpus of a config, and reads the data once for all trials that share them."""
    known: dict[str, Corpus] = {}

    def corpus_of(config: Config) -> Corpus:
        train = replace(config.train, seed=0)
        of = repr((replace(config.data, seed=0), config.model.seq_len, config.model.vocab_size, train))
        if of not in known:
            # A folder without a run, so that none is resumed.
            run = prepare_run(replace(config, run_dir=str(out / TRIALS / "none")), progress=True)
            assert run.config.model.vocab_size is not None
            mixture = run.data.train.mixture
            drawn = mixture.counts(run.total_steps * run.config.train.global_batch_size)
            epochs = (int(count) / source.num_samples for count, source in zip(drawn, mixture.sources, strict=True))
            known[of] = Corpus(run.config.model.vocab_size, run.data.fingerprints, max(epochs))
        return known[of]

    return corpus_of


class TrialFolder(ABC):
    """The trials of a study and their outcomes, in a folder. A study says which trials there are."""

    def __init__(self, out: Path) -> None:
        self.trials: list[Trial] = []
        """All trials that are planned so far."""
        self.outcomes: dict[str, Outcome] = {}
        """By the key of the trial."""
        self.failures: list[Trial] = []
        self.outlives_stop = False
        """Whether trials may still run when `run` has returned."""
        self.out = out

    @abstractmethod
    def batches(self) -> Iterator[Sequence[Trial]]:
        """Yield the trials that can run together; the outcomes of a batch are known when the next one is asked for."""

    def run(self, runner: Runner, progress: TrialProgress) -> int:
        """Run all trials that have no outcome. Returns the exit status of the command."""
        self.outlives_stop = runner.outlives_stop
        try:
            for trials in self.batches():
                self._add(trials)
                progress.plan(self.trials, self.outcomes)
                self._run(trials, runner, progress)
                if runner.stopped_by is not None:
                    return EXIT_RESUME
        except Interrupt as interrupt:
            return 128 + interrupt.signum
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        return EXIT_FAILED if self.failures else EXIT_DONE

    def folder(self, trial: Trial) -> Path:
        """The run folder of a trial."""
        return self.out / TRIALS / trial.name

    def write_config(self, trial: Trial) -> None:
        """Write the config of a trial into its folder, from which any of the project's commands can run it."""
        folder = self.folder(trial)
        folder.mkdir(parents=True, exist_ok=True)
        configs.save(replace(trial.config, run_dir=str(folder)), folder / record.TRIAL_CONFIG)

    @property
    def num_others(self) -> int:
        """The number of trials in the folder that do not belong to the plan."""
        return len({path.name for path in (self.out / TRIALS).iterdir()} - {trial.name for trial in self.trials})

    def _add(self, trials: Sequence[Trial]) -> None:
        """Add trials, and the outcomes that exist already."""
        self.trials += trials
        for trial in trials:
            outcome = record.recorded(self.folder(trial))
            if outcome is not None:
                self.outcomes[trial.key] = outcome
        self._write()

    def _run(self, trials: Sequence[Trial], runner: Runner, progress: TrialProgress) -> None:
        pending = {self.folder(trial): trial for trial in trials if trial.key not in self.outcomes}
        for trial in pending.values():
            self.write_config(trial)
        for ended in runner.run(list(pending)):
            trial = pending[ended.folder]
            outcome = record.recorded(ended.folder)
            if ended.failure is not None or outcome is None:
                self.failures.append(trial)
                progress.fail(trial, ended.failure or f"{ended.folder} holds no outcome")
            else:
                self.outcomes[trial.key] = outcome
                self._write()
                progress.end(trial, outcome)

    def _write(self) -> None:
        record.write_results(self.out, self.trials, self.outcomes)
