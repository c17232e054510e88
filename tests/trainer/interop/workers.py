"""What ranks run in tests of exports: a few steps in each of several layouts, and a checkpoint after them."""

from collections.abc import Sequence
from pathlib import Path

from foretrain.configs.schema import Config
from foretrain.data_pipeline.corpus.manifest import TOKENIZER
from foretrain.parallel.groups import destroy_groups
from foretrain.trainer.build import build_engine
from foretrain.trainer.checkpoint.files import Checkpoints
from foretrain.trainer.checkpoint.record import CheckpointRecord
from foretrain.trainer.checkpoint.retention import Retention
from foretrain.trainer.run.folder import CHECKPOINTS
from tests.trainer.checkpoint.workers import groups_of, train
from tests.trainer.interop.made import tokenizer_json

NUM_STEPS = 2


def train_and_save(configs: Sequence[Config], tokenizer: str) -> list[Path]:
    """The checkpoint of each config, in its run_dir, after a few steps in its layout."""
    found = saved(configs, tokenizer)
    destroy_groups()
    return found


def saved(configs: Sequence[Config], tokenizer: str) -> list[Path]:
    """The same, and the ranks stay connected."""
    found = []
    for config in configs:
        engine, state = build_engine(config, groups_of(config))
        train(engine, config, range(NUM_STEPS))
        record = CheckpointRecord(NUM_STEPS, 16, seed=0, data_fingerprint="", mixture_fingerprint="", stage="")
        checkpoints = Checkpoints(Path(config.run_dir) / CHECKPOINTS, Retention(newest=1))
        attached = {TOKENIZER: tokenizer.encode()}
        found.append(checkpoints.save(NUM_STEPS, state, record, config, attached))
        engine.zero.destroy()
    return found


def with_tokenizer(configs: Sequence[Config]) -> list[Path]:
    """The same as `train_and_save`, with the tokenizer of these tests."""
    return train_and_save(configs, tokenizer_json())
