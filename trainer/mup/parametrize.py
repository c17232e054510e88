"""A config's parametrization applied to its parameter table: initial laws, multipliers, and factors of the optimizer.

Ratios come from the global shapes of two tables, the model's and its base's, and so do not depend on any layout.
"""

from dataclasses import dataclass, replace

from foretrain.configs.parametrization import BaseConfig
from foretrain.configs.schema import Config, ModelConfig
from foretrain.trainer.model.blueprint import Blueprint, Multipliers
from foretrain.trainer.model.resize import resized
from foretrain.trainer.model.spec import Param, Scale, Shape, param_table
from foretrain.trainer.mup.table import PARAMETRIZATIONS, Kind, Parametrization, Ratios, Rule

_MULTIPLIED = {
    "embed": "embed.weight",
    "position": "position.weight",
    "qkv": "blocks.0.attn.q.weight",
    "out": "blocks.0.attn.out.weight",
    "up": "blocks.0.mlp.up.weight",
    "down": "blocks.0.mlp.down.weight",
    "head": "head.weight",
}
"""Whose rule says what each multiplier is."""
_ALIKE = (("attn.q", "attn.k", "attn.v"), ("mlp.gate", "mlp.up"))
"""Matrices that are one tensor in a module, and so must share the factors of their optimizer."""


@dataclass(frozen=True)
class Scaled:
    """A parameter of a model beside the base model's."""

    param: Param
    """With the parametrization's initial law and factors."""
    ratios: Ratios
    multiplier: float


def blueprint(config: Config, table: Parametrization | None = None) -> Blueprint:
    """What the config's model is built from. `table` takes the place of the parametrization that the config names.

    Raises ValueError where the base model cannot be, or is of another kind.
    """
    table = table or PARAMETRIZATIONS[config.mup.parametrization]
    model = config.model
    base = base_model(model, config.mup.base)
    rows = scaled_table(config, table)
    by_name = {row.param.name: row for row in rows}
    found = {name: by_name[of].multiplier for name, of in _MULTIPLIED.items() if of in by_name}
    if model.tie_embeddings:
        found["head"] = _tied_head(by_name["embed.weight"].ratios, table, config.optimizer.kind)
    multipliers = Multipliers(
        attention=(Shape.of(model).head_dim / Shape.of(base).head_dim) ** table.attention,
        residual=(model.num_layers / base.num_layers) ** table.residual,
        **found,
    )
    return Blueprint(model, tuple(row.param for row in rows), multipliers)


def scaled_table(config: Config, table: Parametrization | None = None) -> list[Scaled]:
    """The parameter table in the config's parametrization, in the table's order."""
    table = table or PARAMETRIZATIONS[config.mup.parametrization]
    base = base_model(config.model, config.mup.base)
    depth = config.model.num_layers / base.num_layers
    base_params = {param.name: param for param in param_table(base)}
    rows = []
    for param in param_table(config.model):
        # All blocks of the base are alike, and it may have fewer of them.
        at_base = base_params[_in_first_block(param)]
        ratios = Ratios(
            param.fan_in / at_base.fan_in, param.fan_out / at_base.fan_out, depth if param.in_block else 1.0
        )
        rows.append(_scaled(param, ratios, table.rules[param.role], config.optimizer.kind))
    _check_alike(rows, config.model)
    return rows


def base_model(model: ModelConfig, base: BaseConfig) -> ModelConfig:
    """The model of the base shape: what `base` leaves out is in proportion to `model`. Raises ValueError."""
    try:
        return resized(model, **vars(base))
    except ValueError as error:
        raise ValueError(f"mup.base: {error}, or set mup.base's other sizes too") from error


def _scaled(param: Param, ratios: Ratios, rule: Rule, kind: Kind) -> Scaled:
    lr = rule.lr(kind)(ratios)
    scale = Scale(lr=lr, eps=rule.adam_eps(ratios), weight_decay=1 / lr)
    return Scaled(replace(param, std=param.std * rule.std(ratios), scale=scale), ratios, rule.multiplier(ratios))


def _tied_head(embed: Ratios, table: Parametrization, kind: Kind) -> float:
    """The multiplier of a head that is the embedding's matrix."""
    ratios = Ratios(fan_in=embed.fan_out)
    lookup, head = table.rules["embedding"], table.rules["output"]
    laws = [(rule.std(at), rule.lr(kind)(at), rule.adam_eps(at)) for rule, at in ((lookup, embed), (head, ratios))]
    if laws[0] != laws[1]:
        raise ValueError(
            f"the parametrization {table.name} gives embedding and head other laws or learning rates, and "
            "model.tie_embeddings makes them one matrix: set it to false"
        )
    return head.multiplier(ratios)


def _check_alike(rows: list[Scaled], model: ModelConfig) -> None:
    """Raise ValueError where matrices that share a tensor would need other factors."""
    scales = {row.param.name: row.param.scale for row in rows}
    for names in _ALIKE:
        for kind in ("weight", "bias"):
            full = [f"blocks.0.{name}.{kind}" for name in names]
            if len({scales[name] for name in full if name in scales}) > 1:
                raise ValueError(
                    f"queries and keys would need other learning rates or epsilons: keep num_heads / num_kv_heads = "
                    f"{model.num_heads} / {model.num_kv_heads} as in mup.base, or set mup.base.num_kv_heads"
                )


def _in_first_block(param: Param) -> str:
    if not param.in_block:
        return param.name
    blocks, _, rest = param.name.split(".", 2)
    return f"{blocks}.0.{rest}"
