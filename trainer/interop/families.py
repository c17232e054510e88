"""The families of transformers to which a model may be exported, and the one that a config fits. No torch."""

from foretrain.configs.schema import Config
from foretrain.trainer.interop.family import Family
from foretrain.trainer.interop.gpt2 import Gpt2
from foretrain.trainer.interop.llama import Llama, Qwen3
from foretrain.trainer.objectives.base import objective_of

FAMILIES: tuple[Family, ...] = (Llama(), Qwen3(), Gpt2())


def family_of(config: Config) -> Family:
    """The family that computes the same as the model of a config.

    Raises ValueError, in one line with every setting that is in the way, if there is none.
    """
    model = config.model
    for setting, found, needed in (
        ("attention", model.attention, "grouped_query"),
        ("feed_forward", model.feed_forward, "dense"),
    ):
        if found != needed:
            raise ValueError(
                f"model.{setting} = {found}: no family of transformers has this layer, so that the model cannot be "
                f"exported with --to hf; only models with model.{setting} = {needed} can"
            )
    if not objective_of(config).is_causal:
        raise ValueError(
            f"objective.kind = {config.objective.kind} attends to later positions too, and --to hf exports models that "
            "continue a text: only models of a causal objective can be exported"
        )
    reasons = {family: list(family.refusals(model)) for family in FAMILIES}
    fewest = min(map(len, reasons.values()))
    nearest = [family for family in FAMILIES if len(reasons[family]) == fewest]
    if not fewest:
        return nearest[0]
    names = ", ".join(family.name for family in FAMILIES)
    in_the_way = "; ".join(f"{family.name}: {', '.join(reasons[family])}" for family in nearest)
    raise ValueError(f"no family that --to hf exports ({names}) computes this model. In the way of {in_the_way}")
