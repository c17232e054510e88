"""What ranks run in tests of the model: a few steps, a checkpoint, and the loss that follows from it."""

from dataclasses import dataclass
from pathlib import Path

from foretrain.configs.schema import Config
from foretrain.parallel.groups import destroy_groups
from foretrain.parallel.layout import Layout
from foretrain.trainer.checkpoint.files import Checkpoints
from foretrain.trainer.checkpoint.record import CheckpointRecord
from foretrain.trainer.checkpoint.retention import Retention
from foretrain.trainer.model.gpt import Stage
from foretrain.trainer.state import ModelState
from tests.parallel.workers import batch, make_engine


@dataclass(frozen=True)
class Saved:
    """A checkpoint, and what the ranks that wrote it computed next, in nats per token."""

    checkpoint: Path
    eval_loss: float
    next_step_loss: float


def train_and_save(config: Config, num_steps: int, folder: Path) -> Saved:
    """Train on batches 0 to num_steps - 1, save, and take the loss on batch num_steps in both ways."""
    layout = Layout.from_config(config.parallel)
    engine = make_engine(layout, config.model, config.train, config.optimizer)
    share = config.train.global_batch_size // layout.dp
    mine = slice(engine.groups.at.dp * share, (engine.groups.at.dp + 1) * share)
    batches = [[part[mine] for part in batch(step, config.model, config.train)] for step in range(num_steps + 1)]
    engine.set_lr(1.0)
    for tokens, targets in batches[:-1]:
        engine.train_step(tokens, targets)
    stages = [stage for stage in engine.stages if isinstance(stage, Stage)]
    state = ModelState(engine.groups, engine.zero, [shard for stage in stages for shard in stage.shards()])
    record = CheckpointRecord(num_steps, 0, seed=0, data_fingerprint="", mixture_fingerprint="", stage="")
    checkpoint = Checkpoints(folder, Retention(newest=1)).save(num_steps, state, record, config)
    losses, counts = engine.eval_step(*batches[-1])
    saved = Saved(checkpoint, float(losses.sum() / counts.sum()), engine.train_step(*batches[-1]).loss)
    destroy_groups()
    return saved
