"""The initial weights of a task, by our names and by those of transformers."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from foretrain.configs.schema import Config
from foretrain.trainer.interop.family import targets_of
from foretrain.trainer.interop.llama import Llama
from foretrain.trainer.model.gpt import build_model
from foretrain.trainer.mup.parametrize import blueprint
from foretrain.trainer.state import ModelState


def initial_weights(config: Config) -> dict[str, Tensor]:
    """Every parameter of transformers' LlamaForCausalLM that `foretrain export` would write, in fp32, by its name."""
    plan = blueprint(config)
    ours = {shard.param.name: shard.values.detach() for shard in build_model(plan, config.train.seed).shards()}
    return {
        target.name: torch.cat([ours[source.name] * source.factor for source in target.sources])
        for target in targets_of(Llama(), plan)
    }


def blocks_of(weights: dict[str, Tensor], num_layers: int) -> list[dict[str, Tensor]]:
    """The weights of each block, by the last part of their names but one, such as `q_proj`."""
    return [
        {name.split(".")[-2]: value for name, value in weights.items() if name.startswith(f"model.layers.{block}.")}
        for block in range(num_layers)
    ]


def norm_of(tensors: Iterable[Tensor]) -> float:
    """The L2 norm of all elements, computed in fp64."""
    return math.sqrt(sum(float(each.detach().double().square().sum()) for each in tensors))


def norm_of_state(state: ModelState) -> float:
    """The L2 norm of all weights of a model that one process holds."""
    return norm_of(values for _, values in state.items())
