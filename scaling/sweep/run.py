"""A sweep from start to end: finds the trials that are done, runs the others, and keeps results.jsonl up to date."""

import hashlib
import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path

from foretrain.configs import load as configs
from foretrain.configs.schema import Config
from foretrain.files import write_atomically
from foretrain.launcher.launchers import LAUNCHERS
from foretrain.launcher.local.forwarding import Interrupt
from foretrain.launcher.local.slots import local_slots
from foretrain.scaling.layouts import parse_layout
from foretrain.scaling.records import SWEEP_FILE, TRIALS, SweepRecord, to_json
from foretrain.scaling.sweep import plan as planning
from foretrain.scaling.sweep import record, search
from foretrain.scaling.sweep.cluster import ClusterRunner
from foretrain.scaling.sweep.local import LocalRunner
from foretrain.scaling.sweep.plan import Ask, Corpus, Resolve, Setting, Trial
from foretrain.scaling.sweep.progress import SweepProgress
from foretrain.scaling.sweep.record import Outcome
from foretrain.scaling.sweep.runner import Runner
from foretrain.scaling.sweep.space import parse_axis
from foretrain.trainer.run.environment import code_version
from foretrain.trainer.run.exit_status import EXIT_DONE, EXIT_FAILED, EXIT_RESUME
from foretrain.trainer.run.folder import CONFIG_FILE
from foretrain.trainer.run.lock import locked
from foretrain.trainer.run.setup import prepare_run


@dataclass(frozen=True)
class SweepPlan:
    """Everything that a sweep does, except for later rungs: earlier ones decide which trials they have."""

    ask: Ask
    base: Config
    """The user's config, with the vocabulary of its data."""
    settings: tuple[Setting, ...]
    first: tuple[Trial, ...]
    """The trials of the first rung."""
    corpus_of: Callable[[Config], Corpus]

    @property
    def num_trials(self) -> int:
        """The number of trials of all rungs."""
        per_setting = len(self.first) // len(self.settings)
        num_settings, total = len(self.settings), 0
        for _ in search.shares(len(self.settings), self.ask):
            total += num_settings * per_setting
            num_settings = -(-num_settings // search.KEPT_OF)
        return total


def make_plan(ask: Ask, resolve: Resolve, out: Path) -> SweepPlan:
    """The plan of a sweep. Reads the manifests of the data, and changes nothing.

    Raises ValueError for anything impossible, before a trial starts.
    """
    axes = [parse_axis(text) for text in ask.over]
    planning.check_axes([axis.key for axis in axes])
    corpus_of = _corpora(out)
    base = resolve(())
    if base.train.checkpoint_folder is not None:
        raise ValueError("train.checkpoint_folder is for one run, and a sweep has many: leave it out")
    settings = [planning.setting_of(resolve, point) for point in search.points(axes, ask)]
    search.check_distinct(settings)
    shares = search.shares(len(settings), ask)
    first, *_ = (planning.trials_of(settings, ask, corpus_of, share) for share in shares)
    model = replace(base.model, vocab_size=first[0].config.model.vocab_size)
    return SweepPlan(ask, replace(base, model=model), tuple(settings), tuple(first), corpus_of)


@contextmanager
def open_sweep(plan: SweepPlan, out: Path) -> "Iterator[Sweep]":
    """Yield the sweep of a plan, with its folder made and locked. Raises ValueError if another sweep runs there."""
    with locked(out):
        (out / TRIALS).mkdir(parents=True, exist_ok=True)
        configs.save(plan.base, out / CONFIG_FILE)
        write_atomically(out / SWEEP_FILE, to_json(_asked(plan), indent=1))
        yield Sweep(plan, out)


def runner_of(plan: SweepPlan, out: Path, on: str, jobs: int | None) -> Runner:
    """The runner of the trials, `jobs` at a time, with the launcher named `on`. Raises ValueError if there is none."""
    launcher = LAUNCHERS.get(on)
    ranks = parse_layout(plan.ask.layout).world_size
    if launcher.arrays is not None:
        return ClusterRunner(out, plan.base, launcher, launcher.arrays, ranks=ranks, at_once=jobs)
    if not launcher.uses_one_machine:
        raise ValueError(f"--on {on}: this launcher starts single runs only, and no sweeps: choose another launcher")
    return LocalRunner(local_slots(ranks, on_gpus=plan.base.train.device != "cpu", jobs=jobs))


class Sweep:
    """The trials of a plan and their outcomes, in a folder."""

    def __init__(self, plan: SweepPlan, out: Path) -> None:
        self.trials: list[Trial] = []
        """All trials that are planned so far."""
        self.outcomes: dict[str, Outcome] = {}
        """By the key of the trial."""
        self.failures: list[Trial] = []
        self.outlives_stop = False
        """Whether trials may still run when `run` has returned."""
        self.plan, self.out = plan, out

    def run(self, runner: Runner, progress: SweepProgress) -> int:
        """Run all trials that have no outcome. Returns the exit status of the command."""
        self.outlives_stop = runner.outlives_stop
        trials = list(self.plan.first)
        shares = search.shares(len(self.plan.settings), self.plan.ask)
        try:
            for rung, _ in enumerate(shares):
                self._add(trials)
                progress.plan(self.trials, self.outcomes)
                self._run(trials, runner, progress)
                if runner.stopped_by is not None:
                    return EXIT_RESUME
                if rung + 1 < len(shares):
                    trials = self._promoted(trials, shares[rung + 1])
        except Interrupt as interrupt:
            return 128 + interrupt.signum
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        return EXIT_FAILED if self.failures else EXIT_DONE

    def folder(self, trial: Trial) -> Path:
        """The run folder of a trial."""
        return self.out / TRIALS / trial.name

    @property
    def num_others(self) -> int:
        """The number of trials in the folder that do not belong to the plan."""
        return len({path.name for path in (self.out / TRIALS).iterdir()} - {trial.name for trial in self.trials})

    def _add(self, trials: Sequence[Trial]) -> None:
        """Add the trials of a rung, and the outcomes that exist already."""
        self.trials += trials
        for trial in trials:
            outcome = record.recorded(self.folder(trial))
            if outcome is not None:
                self.outcomes[trial.key] = outcome
        self._write()

    def _run(self, trials: Sequence[Trial], runner: Runner, progress: SweepProgress) -> None:
        pending = {self.folder(trial): trial for trial in trials if trial.key not in self.outcomes}
        for folder, trial in pending.items():
            folder.mkdir(exist_ok=True)
            configs.save(replace(trial.config, run_dir=str(folder)), folder / record.TRIAL_CONFIG)
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

    def _promoted(self, trials: Sequence[Trial], share: Fraction) -> list[Trial]:
        losses = {trial.key: self.outcomes[trial.key].loss for trial in trials if trial.key in self.outcomes}
        kept = search.kept(trials, losses)
        longer = planning.trials_of(self.plan.settings, self.plan.ask, self.plan.corpus_of, share)
        return [trial for trial in longer if trial.point in kept]

    def _write(self) -> None:
        record.write_results(self.out, self.trials, self.outcomes)


def _corpora(out: Path) -> Callable[[Config], Corpus]:
    """A function that returns the corpus of a config, and reads the data once for all trials that share them."""
    known: dict[str, Corpus] = {}

    def corpus_of(config: Config) -> Corpus:
        train = replace(config.train, seed=0)
        of = repr((replace(config.data, seed=0), config.model.seq_len, config.model.vocab_size, train))
        if of not in known:
            # A folder without a run, so that none is resumed.
            run = prepare_run(replace(config, run_dir=str(out / TRIALS / "none")), progress=True)
            assert run.config.model.vocab_size is not None
            known[of] = Corpus(run.config.model.vocab_size, run.data.fingerprints)
        return known[of]

    return corpus_of


def _asked(plan: SweepPlan) -> SweepRecord:
    """The content of sweep.json."""
    asked = asdict(plan.ask)
    keys = [trial.key for trial in plan.first]
    digest = hashlib.sha256(json.dumps([asked, keys], sort_keys=True).encode()).hexdigest()
    return SweepRecord(
        hash=digest,
        search=plan.ask.search,
        widths=list(dict.fromkeys(trial.shape[0] for trial in plan.first)),
        depths=list(dict.fromkeys(trial.shape[1] for trial in plan.first)),
        seeds=list(plan.ask.seeds),
        axes={
            key: list(dict.fromkeys(setting.values[key] for setting in plan.settings))
            for key in plan.settings[0].values
        },
        code=code_version(),
        over=list(plan.ask.over),
        num_trials=plan.ask.num_trials,
        search_seed=plan.ask.search_seed,
        layout=plan.ask.layout,
    )
