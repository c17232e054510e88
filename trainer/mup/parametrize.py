"""A config's parametrization applied to its parameter table: initial values, multipliers, and optimizer factors.

Ratios come from the global shapes of two tables, the model's and its base's, so they do not depend on the layout.
"""

from dataclasses import dataclass, replace

from foretrain.configs.parametrization import BaseConfig
from foretrain.configs.schema import Config, ModelConfig
from foretrain.trainer.model.blueprint import Blueprint, Multipliers
from foretrain.trainer.model.resize import resized
from foretrain.trainer.model.spec import Param, Scale
from foretrain.trainer.model.table import param_table
from foretrain.trainer.mup.table import PARAMETRIZATIONS, STANDARD, Parametrization, Ratios, Rule
from foretrain.trainer.objectives.base import objective_of
from foretrain.trainer.optimizers.entry import OPTIMIZERS


@dataclass(frozen=True)
class ScaledParam:
    """A parameter of a model, and the ratios of its sizes to those in the base model."""

    param: Param
    """With the parametrization's initial values, multiplier and factors."""
    ratios: Ratios


def blueprint(config: Config, table: Parametrization | None = None) -> Blueprint:
    """The blueprint of the config's model; `table` replaces the parametrization that the config names.

    Raises ValueError if the base model is impossible, or if its proportions do not fit the model's.
    """
    table = table or PARAMETRIZATIONS[config.mup.parametrization]
    model = config.model
    base = base_model(model, config.mup.base)
    rows = scaled_table(config, table)
    if model.tie_embeddings:
        (embed,) = (row for row in rows if row.param.is_token_embedding)
        head = _tied_head(embed.ratios, table)
    else:
        (head,) = (row.param.multiplier for row in rows if row.param.role == "output")
    multipliers = Multipliers(
        attention=(model.block_shape.head_dim / base.block_shape.head_dim) ** table.attention,
        residual=(model.num_layers / base.num_layers) ** table.residual,
        head=head,
    )
    is_causal = objective_of(config).is_causal
    return Blueprint(model, tuple(row.param for row in rows), multipliers, is_causal)


def scaled_table(config: Config, table: Parametrization | None = None) -> list[ScaledParam]:
    """The parameter table with what the config's parametrization gives each parameter, in the table's order."""
    table = table or PARAMETRIZATIONS[config.mup.parametrization]
    base = base_model(config.model, config.mup.base)
    depth = config.model.num_layers / base.num_layers
    step_degree = _step_degree(config.optimizer.kind, table)
    # All blocks of the base are alike, and it may have fewer of them.
    base_params = {param.name_in_any_block: param for param in param_table(base)}
    rows = []
    for param in param_table(config.model):
        at_base = base_params[param.name_in_any_block]
        ratios = Ratios(
            param.fan_in / at_base.fan_in, param.fan_out / at_base.fan_out, depth if param.in_block else 1.0
        )
        rows.append(scale_param(param, ratios, table.rules[param.role], step_degree))
    _check_shared_tensors(rows, config.model)
    return rows


def _step_degree(kind: str, table: Parametrization) -> float:
    """How steps of an optimizer go with the gradient. Raises ValueError if the parametrization needs it, unknown."""
    degree = OPTIMIZERS.get(kind).step_degree
    if degree is None and table is not STANDARD:
        raise ValueError(
            f"mup.parametrization = {table.name} has no rule for optimizer.kind = {kind}, which is registered without "
            "a step_degree: set mup.parametrization=standard, or use adamw or sgd"
        )
    return degree or 0.0


def base_model(model: ModelConfig, base: BaseConfig) -> ModelConfig:
    """The model of the base shape; sizes that `base` leaves out are in proportion to `model`. Raises ValueError."""
    try:
        return resized(model, **vars(base))
    except ValueError as error:
        raise ValueError(f"mup.base: {error}, or set mup.base's other sizes too") from error


def scale_param(param: Param, ratios: Ratios, rule: Rule, step_degree: float) -> ScaledParam:
    lr = rule.lr(step_degree)(ratios)
    scale = Scale(lr=lr, eps=rule.gradient(ratios), weight_decay=1 / lr)
    multiplier = rule.multiplier(ratios)
    return ScaledParam(replace(param, std=param.std * rule.std(ratios), scale=scale, multiplier=multiplier), ratios)


def _tied_head(embed: Ratios, table: Parametrization) -> float:
    """The multiplier of a head that uses the matrix of the embedding."""
    ratios = Ratios(fan_in=embed.fan_out)
    lookup, head = table.rules["embedding"], table.rules["output"]
    laws = [(rule.std(at), rule.update(at), rule.gradient(at)) for rule, at in ((lookup, embed), (head, ratios))]
    if laws[0] != laws[1]:
        raise ValueError(
            f"the parametrization {table.name} needs different initial values or learning rates for embedding and head,"
            " and model.tie_embeddings = true makes them one matrix: set model.tie_embeddings=false"
        )
    return head.multiplier(ratios)


def _check_shared_tensors(rows: list[ScaledParam], model: ModelConfig) -> None:
    """Raise ValueError if parameters that share a tensor would need different factors."""
    first: dict[str, Param] = {}
    for param in (row.param for row in rows if row.param.tensor):
        other = first.setdefault(param.tensor, param)
        if (param.scale, param.multiplier) != (other.scale, other.multiplier):
            raise ValueError(
                f"mup.base: {other.name} and {param.name} are one tensor and would need different learning rates or "
                f"epsilons: keep num_heads / num_kv_heads = {model.num_heads} / {model.num_kv_heads} and the other "
                "proportions of a block as in mup.base, or set mup.base.num_kv_heads"
            )
