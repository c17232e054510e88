"""A rank's part of a run's model, joined with its optimizer in an engine."""

from functools import partial

from foretrain.configs.schema import Config
from foretrain.parallel.engine import Engine
from foretrain.parallel.groups import Groups
from foretrain.parallel.tensor import TensorParallel
from foretrain.trainer.compilation.blocks import compile_blocks
from foretrain.trainer.model.gpt import Recompute, build_stages
from foretrain.trainer.model.init import InitialWeights
from foretrain.trainer.model.logits import rows_of_part
from foretrain.trainer.mup.parametrize import blueprint
from foretrain.trainer.objectives.base import objective_of
from foretrain.trainer.optimizers.entry import entry_of
from foretrain.trainer.optimizers.param_groups import build_optimizer
from foretrain.trainer.state import ModelState


def build_engine(
    config: Config, groups: Groups, *, is_loaded: bool = False, shows_logits: bool = False
) -> tuple[Engine, ModelState]:
    """The engine of this rank of `groups`, and this rank's part of the state that the engine trains.

    If `is_loaded`, a checkpoint is going to overwrite all weights: they are 0 then, and none is drawn. If
    `shows_logits`, the last stage returns all logits of a micro-batch, however large they are.

    It reads as a recipe: each step uses what the steps before it have made.
    """
    # Parameter table: names, shapes, initial laws and optimizer factors, as the parametrization sets them.
    plan = blueprint(config)
    # Tensor and context parallelism: how layers are sharded, and how attention sees the full sequence.
    tp = TensorParallel.of(groups, is_compiled=config.train.compile)
    # Recomputation: what blocks do not keep for the backward pass.
    recompute = Recompute(config.train.recompute, config.train.recompute_layers)
    # Objective: the loss of each position, over a vocabulary that is sharded. If logits would be large, the last stage
    # computes the loss from parts of them.
    objective = objective_of(config)(config)
    token_losses = partial(objective.token_losses, tp=tp)
    needs_logits = shows_logits or objective.has_own_loss()
    part = None if needs_logits else rows_of_part(config.model, config.train, groups.layout)
    # Stages: this rank's blocks, made of sharded layers. Their parameters have no memory yet.
    stages = build_stages(plan, groups.layout, groups.at.pp, tp, recompute, part)
    # Compilation: the blocks are computed by one function that is compiled when it is first called.
    if config.train.compile:
        compile_blocks(stages, groups.layout)
    shards = [shard for stage in stages for shard in stage.shards()]
    # Initial weights: a function of the index in the complete parameter, so that no layout changes them.
    initial = InitialWeights(shards, None if is_loaded else config.train.seed)
    # Optimizer: a group for each set of factors.
    optimizer = build_optimizer(shards, config.optimizer)
    # Pipeline schedule and ZeRO: the engine joins them, and ZeRO decides what of each weight is placed and filled here.
    # The gradients of tied embeddings at a pipeline's ends are summed.
    tied = [shard.tensor for shard in shards if config.model.tie_embeddings and shard.param.is_token_embedding]
    moments = entry_of(config.optimizer).states
    engine = Engine(groups, stages, token_losses, optimizer, moments, config, initial.fill, tied)
    return engine, ModelState(groups, engine.zero, shards)
