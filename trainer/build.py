"""A rank's part of a run's model, joined with its optimizer in an engine."""

from functools import partial

from foretrain.configs.schema import Config
from foretrain.parallel.engine import Engine
from foretrain.parallel.groups import Groups
from foretrain.parallel.tensor import TensorParallel
from foretrain.trainer.model.gpt import Recompute, build_stages
from foretrain.trainer.mup.parametrize import blueprint
from foretrain.trainer.objectives.base import objective_of
from foretrain.trainer.optimizers.entry import entry_of
from foretrain.trainer.optimizers.param_groups import build_optimizer
from foretrain.trainer.state import ModelState


def build_engine(config: Config, groups: Groups) -> tuple[Engine, ModelState]:
    """The engine of this rank of `groups`, and this rank's part of the state that the engine trains."""
    tp = TensorParallel.of(groups)
    recompute = Recompute(config.train.recompute, config.train.recompute_layers)
    stages = build_stages(blueprint(config), groups.layout, groups.at.pp, tp, config.train.seed, recompute)
    shards = [shard for stage in stages for shard in stage.shards()]
    tied = [shard.tensor for shard in shards if config.model.tie_embeddings and shard.param.is_token_embedding]
    optimizer = build_optimizer(shards, config.optimizer)
    moments = entry_of(config.optimizer).states
    token_losses = partial(objective_of(config)(config).token_losses, tp=tp)
    engine = Engine(groups, stages, token_losses, optimizer, moments, config, tied)
    return engine, ModelState(groups, engine.zero, shards)
