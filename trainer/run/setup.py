"""The checks of a run before its processes start: its config, its data, its layout, and what it resumes from.

Raises ValueError, which says what to change, for a run that cannot work. Imports no torch, so that it reports a mistake
in a fraction of a second.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from foretrain.configs import load as configs
from foretrain.configs.keys import changes_curve
from foretrain.configs.schema import Config
from foretrain.data_pipeline.corpus.shards import TokenStream
from foretrain.data_pipeline.stream.data import Data, open_data
from foretrain.data_pipeline.stream.left_out import NOTHING, LeftOut
from foretrain.parallel import layout as layouts
from foretrain.parallel.layout import Layout
from foretrain.registry import import_plugins
from foretrain.trainer import schedule
from foretrain.trainer.anomalies.rollbacks import Rollback, left_out_by, read_rollbacks
from foretrain.trainer.callbacks.base import CALLBACKS
from foretrain.trainer.checkpoint.checksums import DamagedError
from foretrain.trainer.checkpoint.folders import CheckpointFolder
from foretrain.trainer.checkpoint.manifest import check_files, check_none_counts_as_partial, has_manifest, set_aside
from foretrain.trainer.checkpoint.places import Place, place_of
from foretrain.trainer.checkpoint.record import CheckpointRecord, config_of
from foretrain.trainer.model.table import check_sharding
from foretrain.trainer.mup.parametrize import blueprint
from foretrain.trainer.optimizers.entry import check_layout as check_optimizer
from foretrain.trainer.run import origin, owner
from foretrain.trainer.run.folder import checkpoints_of
from foretrain.trainer.run.predicted import SealedPrediction, prediction_of
from foretrain.trainer.sinks.chosen import check_sinks
from foretrain.trainer.stages.cost import balance_stages, flop_costs
from foretrain.trainer.tasks.base import TASKS
from foretrain.trainer.tasks.held_out_text import HeldOutText
from foretrain.trainer.tasks.samples import samples_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A checked run: every default is resolved, and the config fits the data and the newest checkpoint."""

    config: Config
    layout: Layout
    data: Data
    resume: "Resume | None"
    """The checkpoint that it resumes from; None for a new run."""
    init: Place | None = None
    """The checkpoint with whose weights a new run starts; None: with random ones."""
    prediction: SealedPrediction | None = None
    """The sealed prediction with which its loss is compared."""

    @property
    def start_step(self) -> int:
        """Steps that are done already."""
        return self.resume.step if self.resume else 0

    @property
    def left_out(self) -> LeftOut:
        """Global samples that the run leaves out."""
        return self.resume.left_out if self.resume else NOTHING

    @property
    def checkpoints(self) -> CheckpointFolder[Any]:
        """The folder of its checkpoints."""
        return checkpoints_of(self.run_dir, self.config.train.checkpoint_folder)

    @property
    def own_checkpoint(self) -> Place | None:
        """The checkpoint among the run's own that it resumes from; None if there is none."""
        return self.resume.checkpoint if self.resume and not self.resume.is_branch else None

    @property
    def callbacks_checkpoint(self) -> Place | None:
        """The checkpoint with the states of the callbacks; None if they start with new ones, as in a branch."""
        return self.resume.checkpoint if self.resume and self.resume.is_replay else self.own_checkpoint

    @property
    def parent(self) -> str:
        """The checkpoint of another run from which this one was started; "" if there is none."""
        return self.resume.parent if self.resume else str(self.init or "")

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one global batch."""
        return self.config.train.global_batch_size * self.config.model.seq_len

    @property
    def total_steps(self) -> int:
        """Steps of the complete budget, rounded up."""
        return -(-self.config.train.num_tokens // self.tokens_per_step)

    @property
    def is_complete(self) -> bool:
        """Whether all steps are done."""
        return self.start_step >= self.total_steps

    @property
    def has_stopped(self) -> bool:
        """Whether `train.stop_after` asks for no step more than are done, although the budget is not used up."""
        stop_after = self.config.train.stop_after
        return not self.is_complete and stop_after is not None and self.start_step >= stop_after

    @property
    def outlook(self) -> str:
        """One line that says what will happen."""
        if self.is_complete:
            return f"{self.run_dir} is complete: delete it, or set another run_dir, to train again"
        if self.has_stopped:
            return (
                f"{self.run_dir}: {self.start_step:,} of {self.total_steps:,} steps are done, and train.stop_after = "
                f"{self.config.train.stop_after} asks for no more: leave it out, or raise it, to continue"
            )
        start = f"from step {self.start_step:,}" if self.start_step else "from the start"
        if self.init is not None:
            start += f", with the weights of {self.init}"
        elif self.resume is not None and self.resume.is_branch:
            start += f" of {self.resume.checkpoint}"
        return f"{self.run_dir}: {self.layout}, {self.total_steps:,} steps, {start}"

    @property
    def measures_stages(self) -> bool:
        """Whether the ranks must measure the cost of pipeline stages before the blocks are divided among them."""
        parallel = self.config.parallel
        return self.layout.pp > 1 and parallel.balance == "measured" and parallel.stage_layers is None

    @property
    def run_dir(self) -> Path:
        """The run folder."""
        return Path(self.config.run_dir)


@dataclass(frozen=True)
class Resume:
    """The checkpoint that a run resumes from."""

    checkpoint: Place
    step: int
    num_bad_samples: int
    """Unreadable samples that were replaced before it was written."""
    data_changes: tuple[str, ...]
    """Changes of the data since the checkpoint, which the user allowed, in words."""
    parent: str = ""
    """The checkpoint of another run from which the run was started once; "" if there is none."""
    is_branch: bool = False
    """Whether `checkpoint` is that of another run, from which this one branches now."""
    is_replay: bool = False
    """Whether steps of that other run are taken again, so that the callbacks continue with their states there too."""
    rollbacks: tuple[Rollback, ...] = ()
    """The rollbacks of this run so far."""
    left_out: LeftOut = NOTHING
    """Global samples that the run leaves out."""


def prepare_run(
    config: Config,
    world_size: int | None = None,
    *,
    allow_data_change: bool = False,
    progress: bool = False,
    check_corpus: bool = True,
) -> Run:
    """Resolve what the data and the number of ranks decide, and check everything.

    `world_size`: number of ranks; None: as many as the layout names. `allow_data_change`: resume although the data or
    their mixture have changed. `progress`: show the progress of long checks. `check_corpus`: look at every file of the
    corpus; of many ranks on a machine, one needs to. Raises ValueError, which says what to change, if the run cannot
    work.
    """
    _check_components(config)
    data = open_data(config.data, config.model.seq_len, progress=progress, check=check_corpus)
    if check_corpus:
        tokenizer = data.any_stream.read_tokenizer()  # every checkpoint holds it, and the first may be hours away
        # Refuses tasks whose problems do not fit, or of which the held-out text has too few.
        samples_of(config, tokenizer, data.any_stream.eot_id, HeldOutText.of(data))
    config = _with_vocabulary(config, data.any_stream)
    layout = _checked_layout(config, world_size)
    check_sharding(config.model, layout)
    if config.parallel.balance == "flops" and layout.stage_layers is None:
        layout = balance_stages(layout, config.model.num_layers, flop_costs(config.model, config.train, layout))
    blueprint(config)
    schedule.check(config.schedule, config.train.num_tokens)
    config = _with_absolute_paths(config)
    checkpoint = _find_checkpoint(config, thoroughly=check_corpus)
    init, resume = None, None
    if checkpoint is not None:
        resume = check_resume(checkpoint, config, data, allow_data_change)
    elif config.train.branch_from is not None:
        resume = _branch(config, data)
    elif config.train.init_from is not None:
        init = origin.find(config.train.init_from, "train.init_from")
        origin.check_weights(init, "train.init_from", config, data)
        if config.train.init_optimizer:
            origin.check_state(init, "train.init_from", config)
    run = Run(config, layout, data, resume, init)
    run = replace(run, prediction=prediction_of(run))
    data.check_budget(run.total_steps * config.train.global_batch_size, run.left_out)
    return run


def check_without_data(config: Config, world_size: int | None = None) -> None:
    """Check what can be checked of a run whose data must not be opened. Raises ValueError as `prepare_run` does."""
    _check_components(config)
    _checked_layout(config, world_size)
    schedule.check(config.schedule, config.train.num_tokens)


def _check_components(config: Config) -> None:
    import_plugins(config.plugins)
    for name in config.train.callbacks:
        CALLBACKS.get(name)
    check_sinks(config.train)
    for name in config.train.eval_tasks:
        TASKS.get(name)


def _checked_layout(config: Config, world_size: int | None) -> Layout:
    layout = Layout.from_config(config.parallel, world_size)
    layouts.check(layout, config.model, config.train)
    check_optimizer(config.optimizer, layout)
    if config.train.profile_steps and not {*config.train.profile_ranks} <= {*range(layout.world_size)}:
        raise ValueError(
            f"train.profile_ranks = {config.train.profile_ranks}, and the ranks of the layout are 0 to "
            f"{layout.world_size - 1}: name some of these"
        )
    return layout


def _with_absolute_paths(config: Config) -> Config:
    """A relative path in `train` is one of the working directory, which later commands do not know."""
    train = config.train
    if train.checkpoint_folder is not None:
        train = replace(train, checkpoint_folder=str(place_of(train.checkpoint_folder).absolute()))
    if train.prediction is not None:
        train = replace(train, prediction=str(Path(train.prediction).absolute()))
    return replace(config, train=train)


def _find_checkpoint(config: Config, *, thoroughly: bool) -> Place | None:
    """The run's own newest checkpoint. `thoroughly`: that is sound, in a folder that is the run's.

    Raises ValueError if the folder is another run's or has a checkpoint that the run would remove, or if the run has
    left its checkpoints in another folder.
    """
    run_dir = Path(config.run_dir)
    checkpoints = checkpoints_of(run_dir, config.train.checkpoint_folder)
    if thoroughly and config.train.checkpoint_folder is not None:
        owner.check(run_dir, checkpoints.place)
        check_none_counts_as_partial(checkpoints)
    checkpoint = newest_sound(checkpoints) if thoroughly else checkpoints.newest()
    if checkpoint is None:
        owner.check_nothing_is_left_behind(run_dir, checkpoints.place)
    return checkpoint


def _branch(config: Config, data: Data) -> "Resume":
    """How a new run continues the one that `train.branch_from` names."""
    setting = "train.branch_from"
    assert config.train.branch_from is not None
    checkpoint = origin.find(config.train.branch_from, setting)
    origin.check_branch(checkpoint, setting, config, data)
    record = CheckpointRecord.read(checkpoint)
    if config.train.num_tokens <= record.step * config.train.global_batch_size * config.model.seq_len:
        raise ValueError(
            f"{setting}: {checkpoint} has done {record.step:,} steps, which is the complete budget of the new run: "
            "raise train.num_tokens, which counts from the start of the first run, or name an earlier checkpoint"
        )
    left_out = LeftOut.of(record.left_out)
    return Resume(checkpoint, record.step, 0, (), parent=str(checkpoint), is_branch=True, left_out=left_out)


def newest_sound(checkpoints: CheckpointFolder[Any]) -> Place | None:
    """The newest checkpoint whose files are there and, as far as a quick look shows, undamaged; None if there is none.

    Others are set aside.
    """
    while (checkpoint := checkpoints.newest()) is not None:
        try:
            if has_manifest(checkpoint):
                check_files(checkpoint)
        except DamagedError as error:
            if checkpoints.is_complete(checkpoint):  # else a run in the folder has removed it at this moment
                logger.warning("%s", set_aside(checkpoint, error))
        else:
            break
    return checkpoint


def check_resume(checkpoint: Place, config: Config, data: Data, allow_data_change: bool = False) -> Resume:
    """How `config` resumes from a checkpoint. Raises ValueError, which lists the changes that change the curve."""
    origin.check_has_optimizer(checkpoint)
    record = CheckpointRecord.read(checkpoint)
    lines = configs.diff(config_of(checkpoint), config)
    changed = [line for line in lines if changes_curve(line.partition(":")[0])]
    of_data = [line for line in changed if line.startswith("data.")] + _changed_data(record, data)
    others = [line for line in changed if not line.startswith("data.")]
    if others or (of_data and not allow_data_change):
        also = "" if others else ", or continue with the changed data (--allow-data-change)"
        raise ValueError(
            f"{checkpoint} cannot be resumed, because these change the curve:\n  "
            + "\n  ".join(others + of_data)
            + f"\nset them back to resume, or start a new run with another run_dir{also}"
        )
    rollbacks = read_rollbacks(Path(config.run_dir))
    return Resume(
        checkpoint,
        record.step,
        record.num_bad_samples,
        tuple(of_data),
        record.parent,
        rollbacks=tuple(rollbacks),
        left_out=left_out_by(rollbacks, record.left_out),
    )


def _changed_data(record: CheckpointRecord, data: Data) -> list[str]:
    """Differences between the data of a checkpoint and `data` that the config does not show."""
    changed = [
        f"the tokens of {f'data.sources.{name}' if name else 'data.path'} are not those of the checkpoint"
        for name, fingerprint in data.fingerprints.items()
        if record.sources.get(name, fingerprint) != fingerprint
    ]
    if not changed and record.data_fingerprint != data.fingerprint:
        changed = ["the sources are not those of the checkpoint"]
    if not changed and record.mixture_fingerprint != data.mixture_fingerprint:
        changed = ["the order or the mixture of the samples is not that of the checkpoint"]
    return changed


def _with_vocabulary(config: Config, data: TokenStream) -> Config:
    vocab_size = config.model.vocab_size or data.vocab_size
    if vocab_size < data.vocab_size:
        raise ValueError(
            f"model.vocab_size = {vocab_size} is smaller than the {data.vocab_size} tokens of {data.folder}: "
            f"set it to {data.vocab_size} or more, or leave it out"
        )
    return replace(config, model=replace(config.model, vocab_size=vocab_size))
