"""Kinds of attention, by the name that `model.attention` takes."""

from foretrain.registry import Registry
from foretrain.trainer.model.attention.grouped_query import GroupedQuery
from foretrain.trainer.model.layer import LayerKind

ATTENTION: Registry[LayerKind] = Registry("attention", "model.attention")
ATTENTION.register("grouped_query", GroupedQuery())
