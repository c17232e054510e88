"""A family of models of the transformers library, and what it must know of one of ours. No torch."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from foretrain.configs.model import ModelConfig
from foretrain.trainer.interop.folding import Folded
from foretrain.trainer.interop.tensors import Target
from foretrain.trainer.model.blueprint import Blueprint


class Family(ABC):
    """Models that one class of transformers computes."""

    name: str
    """Its name in words."""
    architecture: str
    """The class of transformers."""
    model_type: str
    """The name by which transformers finds the class."""

    @abstractmethod
    def refusals(self, model: ModelConfig) -> Iterator[str]:
        """Each setting of ours with which the family computes something else, and what the family has instead."""

    @abstractmethod
    def settings(self, model: ModelConfig) -> dict[str, Any]:
        """The settings of the family's `config.json` that describe the shape of a model that is not refused."""

    @abstractmethod
    def targets(self, folded: Folded) -> Iterator[Target]:
        """Every tensor of the family's model, in the order in which data meet them, without that of a tied head."""


def differing(model: ModelConfig, **needed: object) -> Iterator[str]:
    """The settings of a model that are not those that a family needs, as parts of a message."""
    for setting, value in needed.items():
        found = getattr(model, setting)
        if found != value:
            yield f"model.{setting} = {_written(found)} (it needs {_written(value)})"


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def targets_of(family: Family, blueprint: Blueprint) -> list[Target]:
    """Every tensor of the family's model, with the multipliers of the blueprint as factors."""
    return list(family.targets(Folded(blueprint)))
