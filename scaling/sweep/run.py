"""A sweep from start to end: its plan, its files, and its rungs.

OUT/sweep.json      what was asked
OUT/config.yaml     the config from which every trial is made

What else is in its folder is described in `scaling/trials/record.py`.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path

from foretrain.configs import load as configs
from foretrain.configs.schema import Config
from foretrain.files import write_atomically
from foretrain.scaling.records import LADDER_FILE, SWEEP_FILE, TRIALS, SweepRecord, to_json
from foretrain.scaling.sweep import plan as planning
from foretrain.scaling.sweep import search
from foretrain.scaling.sweep.plan import Ask, Resolve, Setting
from foretrain.scaling.sweep.space import parse_axis
from foretrain.scaling.trials.folder import TrialFolder, corpora
from foretrain.scaling.trials.trial import Corpus, Trial
from foretrain.trainer.run.environment import code_version
from foretrain.trainer.run.folder import CONFIG_FILE
from foretrain.trainer.run.lock import locked


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
    corpus_of = corpora(out)
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
    """Yield the sweep of a plan, with its folder made and locked.

    Raises ValueError if another sweep runs there, or if it is the folder of a ladder.
    """
    with locked(out):
        if (out / LADDER_FILE).exists():
            raise ValueError(f"{out} holds a ladder: choose another --out")
        (out / TRIALS).mkdir(parents=True, exist_ok=True)
        configs.save(plan.base, out / CONFIG_FILE)
        write_atomically(out / SWEEP_FILE, to_json(_asked(plan), indent=1))
        yield Sweep(plan, out)


class Sweep(TrialFolder):
    """The trials of a plan and their outcomes, in a folder."""

    def __init__(self, plan: SweepPlan, out: Path) -> None:
        super().__init__(out)
        self.plan = plan

    def batches(self) -> Iterator[Sequence[Trial]]:
        """Yield the trials of each rung: the outcomes of one rung decide which trials the next one has."""
        trials: Sequence[Trial] = self.plan.first
        yield trials
        for share in search.shares(len(self.plan.settings), self.plan.ask)[1:]:
            trials = self._promoted(trials, share)
            yield trials

    def _promoted(self, trials: Sequence[Trial], share: Fraction) -> list[Trial]:
        losses = {trial.key: self.outcomes[trial.key].loss for trial in trials if trial.key in self.outcomes}
        kept = search.kept(trials, losses)
        longer = planning.trials_of(self.plan.settings, self.plan.ask, self.plan.corpus_of, share)
        return [trial for trial in longer if trial.point in kept]


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
