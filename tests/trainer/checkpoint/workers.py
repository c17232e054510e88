"""What ranks run in tests of checkpoints: steps before one is written, and steps after one was read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foretrain.configs.schema import Config
from foretrain.parallel.engine import Engine, StepResult
from foretrain.parallel.groups import Groups, destroy_groups, init_groups
from foretrain.parallel.layout import Layout
from foretrain.trainer.build import build_engine
from foretrain.trainer.checkpoint.boxes import Box
from foretrain.trainer.checkpoint.files import Checkpoints
from foretrain.trainer.checkpoint.loading import load
from foretrain.trainer.checkpoint.places import Place
from foretrain.trainer.checkpoint.record import CheckpointRecord
from foretrain.trainer.checkpoint.retention import Retention
from foretrain.trainer.state import ModelState
from tests.parallel.workers import batch

NUM_BEFORE, NUM_AFTER = 3, 5
"""Steps before the checkpoint, and after it."""


@dataclass(frozen=True)
class Way:
    """The folder of a checkpoint that is read, and the folder into which what was read is written again."""

    source: Path
    copy: Path


def save_and_continue(config: Config, folder: Path) -> list[StepResult]:
    """Train, save into `folder`, and return the steps that follow."""
    engine, state = build_engine(config, groups_of(config))
    train(engine, config, range(NUM_BEFORE))
    save(folder, state, config)
    found = train(engine, config, range(NUM_BEFORE, NUM_BEFORE + NUM_AFTER))
    destroy_groups()
    return found


def load_and_continue(config: Config, ways: Sequence[Way]) -> list[list[StepResult]]:
    """For each way: load its checkpoint, write it again, and return the steps that follow."""
    found = []
    for way in ways:
        engine, state = build_engine(config, groups_of(config), is_loaded=True)
        load(way.source / f"step-{NUM_BEFORE:08}", state, NUM_BEFORE)
        save(way.copy, state, config)
        found.append(train(engine, config, range(NUM_BEFORE, NUM_BEFORE + NUM_AFTER)))
        engine.zero.destroy()
    destroy_groups()
    return found


def load_into_the_wrong_place(config: Config, ways: Sequence[Way]) -> list[list[StepResult]]:
    """The same as `load_and_continue`, but each tensor-parallel rank reads what the first one needs."""
    Box.moved = lambda self, dim, distance: self  # type: ignore[method-assign]
    return load_and_continue(config, ways)


def groups_of(config: Config) -> Groups:
    """The process groups of a config's layout."""
    return init_groups(Layout.from_config(config.parallel), "cpu", timeout_s=120.0)


def train(engine: Engine, config: Config, steps: Sequence[int]) -> list[StepResult]:
    """Train on the batches of these steps."""
    share = engine.groups.share.samples(config.train.global_batch_size)
    engine.set_lr(1.0)
    return [engine.train_step(*(part[share] for part in batch(step, config.model, config.train))) for step in steps]


def save(folder: Place, state: ModelState, config: Config) -> Any:
    """Write a checkpoint of the state, and return its folder."""
    record = CheckpointRecord(NUM_BEFORE, 0, seed=0, data_fingerprint="", mixture_fingerprint="", stage="")
    return Checkpoints(folder, Retention(newest=1)).save(NUM_BEFORE, state, record, config)
