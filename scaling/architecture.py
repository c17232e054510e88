"""The traits of a config that small models must share with a large one, so that evidence from them holds for it."""

from dataclasses import asdict
from typing import Any

from foretrain.configs.model import ModelConfig
from foretrain.configs.optimization import ObjectiveConfig
from foretrain.configs.schema import Config


def architecture(config: Config) -> dict[str, Any]:
    """The traits of a model and its parametrization by name: everything but its width, depth and vocabulary.

    A coordinate check or a sweep of one config holds for another only if these are equal.
    """
    model = config.model
    shape = model.block_shape
    return {
        "parametrization": config.mup.parametrization,
        "optimizer": config.optimizer.kind,
        # None for the default, as in the files that older versions wrote.
        "objective": None if config.objective == ObjectiveConfig() else asdict(config.objective),
        "attention": None if model.attention == ModelConfig.attention else model.attention,
        "feed_forward": None if model.feed_forward == ModelConfig.feed_forward else model.feed_forward,
        "norm": model.norm,
        "norm_eps": model.norm_eps,
        "position": model.position,
        "rope_theta": model.rope_theta if model.position == "rope" else None,
        "activation": model.activation,
        "bias": model.bias,
        "tie_embeddings": model.tie_embeddings,
        "qk_norm": model.qk_norm,
        "heads for each key-value head": shape.num_heads // shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "heads' width / d_model": round(shape.num_heads * shape.head_dim / shape.d_model, 6),
        "d_ff / d_model": round(shape.d_ff / shape.d_model, 6),
        "init_std": model.init_std,
        "embed_init_std": model.init_std if model.embed_init_std is None else model.embed_init_std,
        "head_init_std": model.init_std if model.head_init_std is None else model.head_init_std,
    }


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """The traits in which two architectures differ, one line for each."""
    return [f"{name}: {a.get(name)} there, {b.get(name)} here" for name in a | b if a.get(name) != b.get(name)]
