"""A rank's part of a run's model, joined with its optimizer in an engine."""

from foretrain.configs.schema import Config
from foretrain.parallel.engine import Engine
from foretrain.parallel.groups import Groups
from foretrain.parallel.tensor import TensorParallel
from foretrain.trainer.model.gpt import LocalParam, Recompute, build_stages
from foretrain.trainer.mup.parametrize import blueprint
from foretrain.trainer.optim import build_optimizer


def build_engine(config: Config, groups: Groups) -> tuple[Engine, list[LocalParam]]:
    """The engine of this rank of `groups`, and what the rank holds of the parameter table.

    Where the rank holds the second copy of a tied embedding, that copy is listed too (`LocalParam.shared`).
    """
    tp = TensorParallel.of(groups)
    recompute = Recompute(config.train.recompute, config.train.recompute_layers)
    stages = build_stages(blueprint(config), groups.layout, groups.at.pp, tp, config.train.seed, recompute)
    held = [local for stage in stages for local in stage.local_params()]
    tied = [local.parameter for local in held if config.model.tie_embeddings and local.param.name == "embed.weight"]
    optimizer = build_optimizer(held, config.optimizer)
    return Engine(groups, stages, tp.cross_entropy, optimizer, config, tied), held
