"""Bugs of a parametrization, each planted in the processes of a check, which `foretrain coord-check` must find.

Each is a function that ranks run by its name, as `measure` of trainer/mup/coordinates.py, after it has broken a rule.
"""

from collections.abc import Sequence
from dataclasses import replace

from foretrain.configs.schema import Config
from foretrain.parallel.layout import Layout
from foretrain.trainer.mup import parametrize
from foretrain.trainer.mup.coordinates import Coordinates, measure
from foretrain.trainer.mup.table import PARAMETRIZATIONS, Parametrization, Power, Ratios, Rule

HIDDEN = ("hidden", "residual")


def _rules(name: str, roles: Sequence[str], **entries: Power) -> Parametrization:
    """A parametrization with other entries for some roles."""
    table = PARAMETRIZATIONS[name]
    rules = {role: replace(rule, **entries) if role in roles else rule for role, rule in table.rules.items()}
    return replace(table, rules=rules)


def _plant(table: Parametrization, configs: Sequence[Config], layout: Layout, num_steps: int) -> list[Coordinates]:
    parametrize.PARAMETRIZATIONS[configs[0].mup.parametrization] = table
    return measure(configs, layout, num_steps)


def hidden_lr_not_scaled(configs: Sequence[Config], layout: Layout, num_steps: int) -> list[Coordinates]:
    return _plant(_rules("mup", HIDDEN, update=Power()), configs, layout, num_steps)


def hidden_lr_by_the_root(configs: Sequence[Config], layout: Layout, num_steps: int) -> list[Coordinates]:
    return _plant(_rules("mup", HIDDEN, update=Power(fan_in=-0.5)), configs, layout, num_steps)


def logits_not_multiplied(configs: Sequence[Config], layout: Layout, num_steps: int) -> list[Coordinates]:
    return _plant(_rules("mup", ["output"], multiplier=Power()), configs, layout, num_steps)


def logits_multiplied_twice(configs: Sequence[Config], layout: Layout, num_steps: int) -> list[Coordinates]:
    return _plant(_rules("mup", ["output"], multiplier=Power(fan_in=-2)), configs, layout, num_steps)


def hidden_init_not_scaled(configs: Sequence[Config], layout: Layout, num_steps: int) -> list[Coordinates]:
    return _plant(_rules("mup", ["hidden"], std=Power()), configs, layout, num_steps)


def one_init_not_scaled(configs: Sequence[Config], layout: Layout, num_steps: int) -> list[Coordinates]:
    """An initial scale that is missing in mlp.down of the last block only."""

    def scaled(param: parametrize.Param, ratios: Ratios, rule: Rule, step_degree: float) -> parametrize.ScaledParam:
        is_broken = param.name == "blocks.1.mlp.down.weight"
        return real(param, ratios, replace(rule, std=Power()) if is_broken else rule, step_degree)

    real, parametrize.scale_param = parametrize.scale_param, scaled
    return measure(configs, layout, num_steps)


def embedding_lr_scaled(configs: Sequence[Config], layout: Layout, num_steps: int) -> list[Coordinates]:
    return _plant(_rules("mup", ["embedding"], update=Power(fan_out=-1)), configs, layout, num_steps)


def eps_not_scaled(configs: Sequence[Config], layout: Layout, num_steps: int) -> list[Coordinates]:
    roles = list(PARAMETRIZATIONS["mup"].rules)
    return _plant(_rules("mup", roles, gradient=Power()), configs, layout, num_steps)


def ratio_of_another_axis(configs: Sequence[Config], layout: Layout, num_steps: int) -> list[Coordinates]:
    """mlp.down goes by the ratio of d_model, which is its fan-out."""

    def scaled(param: parametrize.Param, ratios: Ratios, rule: Rule, step_degree: float) -> parametrize.ScaledParam:
        if param.name.endswith("mlp.down.weight"):
            ratios = replace(ratios, fan_in=ratios.fan_out)
        return real(param, ratios, rule, step_degree)

    real, parametrize.scale_param = parametrize.scale_param, scaled
    return measure(configs, layout, num_steps)


def residual_multiplier_missing(configs: Sequence[Config], layout: Layout, num_steps: int) -> list[Coordinates]:
    return _plant(replace(PARAMETRIZATIONS["completep"], residual=0.0), configs, layout, num_steps)


def residual_multiplier_by_the_root(configs: Sequence[Config], layout: Layout, num_steps: int) -> list[Coordinates]:
    return _plant(replace(PARAMETRIZATIONS["completep"], residual=-0.5), configs, layout, num_steps)


def depth_counted_twice(configs: Sequence[Config], layout: Layout, num_steps: int) -> list[Coordinates]:
    """GPT-2's 1 / sqrt(2 L) is left in the initial weights of what writes into the residual stream."""
    std = PARAMETRIZATIONS["mup"].rules["residual"].std
    return _plant(_rules("completep", ["residual"], std=std), configs, layout, num_steps)


def attention_by_the_root(configs: Sequence[Config], layout: Layout, num_steps: int) -> list[Coordinates]:
    """Attention logits are divided by the root of the heads' width."""
    return _plant(replace(PARAMETRIZATIONS["mup"], attention=0.0), configs, layout, num_steps)


def head_lr_by_the_root(configs: Sequence[Config], layout: Layout, num_steps: int) -> list[Coordinates]:
    return _plant(_rules("mup", ["output"], update=Power(fan_in=-0.5)), configs, layout, num_steps)


def gain_lr_scaled(configs: Sequence[Config], layout: Layout, num_steps: int) -> list[Coordinates]:
    return _plant(_rules("mup", ["gain"], update=Power(fan_out=-1)), configs, layout, num_steps)


def ranks_fail(configs: Sequence[Config], layout: Layout, num_steps: int) -> list[Coordinates]:
    """The larger model does not run."""
    if configs[0].model.d_model > 64:
        raise ArithmeticError("a planted failure")
    return measure(configs, layout, num_steps)
