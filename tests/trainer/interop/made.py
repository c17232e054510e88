"""Checkpoints of models with random weights, which one process writes without training."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp

from foretrain.configs import load as configs
from foretrain.configs.schema import Config
from foretrain.data_pipeline.corpus.manifest import TOKENIZER
from foretrain.data_pipeline.prepare.tokenizer import EOT, train_tokenizer
from foretrain.trainer.checkpoint.boxes import Box
from foretrain.trainer.checkpoint.files import Checkpoints
from foretrain.trainer.checkpoint.parts import WEIGHT, Part
from foretrain.trainer.checkpoint.plans import PARTS, WritePlan
from foretrain.trainer.checkpoint.record import CheckpointRecord
from foretrain.trainer.checkpoint.retention import Retention
from foretrain.trainer.checkpoint.storage import RankWriter, expect_no_messages
from foretrain.trainer.model.gpt import Stage, build_model
from foretrain.trainer.model.shard import ParamShard
from foretrain.trainer.mup.parametrize import blueprint
from foretrain.trainer.run.folder import CHECKPOINTS, CONFIG_FILE

VOCAB_SIZE = 300
STEP = 40


@cache
def tokenizer_json() -> str:
    """A byte-level tokenizer of at most VOCAB_SIZE tokens."""
    texts = [f"{number} plus {number + 1} is 日本 {2 * number + 1}, and nothing else.\n" for number in range(300)]
    tokenizer = train_tokenizer(texts, VOCAB_SIZE)
    assert tokenizer.token_to_id(EOT) == 0
    return tokenizer.to_str()


def random_model(config: Config) -> Stage:
    """The model of a config, with gains and biases that are not 1 and 0."""
    stage = build_model(blueprint(config), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for shard in stage.shards():
            if not shard.param.is_matrix:
                shard.tensor[shard.rows] += 0.3 * torch.randn(shard.param.shape, generator=generator)
    return stage


def write_checkpoint(
    run_dir: Path, config: Config, shards: Sequence[ParamShard], step: int = STEP, tokenizer: str | None = None
) -> Path:
    """A checkpoint of a run with these weights, in parts of a few rows as ranks write them."""
    folder = run_dir / CHECKPOINTS
    partial, target = folder / f"partial-step-{step:08d}", folder / f"step-{step:08d}"
    partial.mkdir(parents=True)
    parts = [part for shard in shards for part in _parts(shard)]
    expect_no_messages()
    dcp.save(
        {PARTS: [part.values.clone() for part in parts]},
        storage_writer=RankWriter(partial, 0),
        planner=WritePlan(parts),
        no_dist=True,
        use_collectives=False,
    )
    batch = config.train.global_batch_size
    record = CheckpointRecord(step, step * batch, 1, "data", "mixture", "main", {"web|`": "source"}, val_loss=2.5)
    attached = {TOKENIZER: (tokenizer or tokenizer_json()).encode()}
    Checkpoints(folder, Retention(newest=9)).write_rest(partial, target, 1, record, config, attached)
    return target


def write_checkpoint_of_version_0_1(run_dir: Path, config: Config, shards: Sequence[ParamShard]) -> Path:
    """A checkpoint as earlier versions wrote it: complete tensors by torch's own writer, and no checksums."""
    target = run_dir / CHECKPOINTS / f"step-{STEP:08d}"
    expect_no_messages()
    weights = {shard.param.name: shard.values.detach().clone() for shard in shards}
    dcp.save({WEIGHT: weights}, checkpoint_id=target, no_dist=True)
    CheckpointRecord(STEP, STEP, 1, "data", "mixture", "main").write(target)
    configs.save(config, target / CONFIG_FILE)
    (target / TOKENIZER).write_text(tokenizer_json(), encoding="utf-8")
    return target


def _parts(shard: ParamShard) -> list[Part]:
    shape, values = tuple(shard.param.shape), shard.values.detach()
    half = shape[0] // 2
    boxes = [(0, half), (half, shape[0])] if half else [(0, shape[0])]
    zeros = [0] * (len(shape) - 1)
    return [
        Part(WEIGHT, shard.param.name, shape, Box((start, *zeros), (stop - start, *shape[1:])), values[start:stop])
        for start, stop in boxes
    ]
