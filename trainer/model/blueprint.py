"""A model as it is built: its shape, its parameters, and the constants that its activations are multiplied by."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from foretrain.configs.model import ModelConfig
from foretrain.trainer.model.spec import Param
from foretrain.trainer.model.table import param_table


@dataclass(frozen=True)
class Multipliers:
    """Constants that activations are multiplied by, beside those of single parameters (`Param.multiplier`)."""

    attention: float = 1.0
    """Multiplies attention logits, beside 1 / sqrt(head_dim)."""
    residual: float = 1.0
    """Multiplies what attention and the feed-forward layer add to the residual stream."""
    head: float = 1.0
    """Multiplies the input of the head, tied or not."""


@dataclass(frozen=True)
class Blueprint:
    """What a stage is built from."""

    model: ModelConfig
    table: tuple[Param, ...]
    multipliers: Multipliers = Multipliers()
    is_causal: bool = True
    """Whether a position attends to itself and earlier positions only."""

    @classmethod
    def of(cls, model: ModelConfig) -> "Blueprint":
        """The model in the standard parametrization."""
        return cls(model, tuple(param_table(model)))

    @cached_property
    def by_name(self) -> Mapping[str, Param]:
        """The parameters by name."""
        return {param.name: param for param in self.table}

    def rows_of(self, module: str) -> Mapping[str, Param]:
        """The parameters of a module by the names that they have in it."""
        prefix = f"{module}."
        return {name.removeprefix(prefix): param for name, param in self.by_name.items() if name.startswith(prefix)}
