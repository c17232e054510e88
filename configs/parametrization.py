"""The `mup` section of a config: how initial weights, learning rates and multipliers follow from a model's shape."""

from dataclasses import dataclass, field
from typing import Literal

from foretrain.configs.checks import require, require_positive
from foretrain.configs.fields import setting


@dataclass
class BaseConfig:
    """The shape at which every factor of a parametrization is 1: the shape of the proxy that was tuned.

    Sizes that are left out are those of the model, scaled: `d_ff` and the numbers of heads in proportion to d_model.
    """

    d_model: int | None = None
    """Width of the residual stream."""
    num_layers: int | None = None
    """Transformer blocks; None: the same number as in the model."""
    num_heads: int | None = None
    """Query heads; None: in proportion to d_model."""
    num_kv_heads: int | None = None
    """Key and value heads; None: in proportion to num_heads."""
    head_dim: int | None = None
    """Width of one head; None: model.head_dim if it is set, else d_model / num_heads."""
    d_ff: int | None = None
    """Hidden width of the feed-forward layer; None: in proportion to d_model."""

    def __post_init__(self) -> None:
        require_positive(**vars(self))


@dataclass
class MupConfig:
    """Maximal update parametrization: settings that were tuned at a base shape are good at other shapes too."""

    parametrization: Literal["standard", "mup", "completep"] = "standard"
    """standard: tune the settings at every width and depth. mup: the learning rate, weight decay and `init_std` of the
    base shape are good at other widths. completep: at other depths too."""
    base: BaseConfig = field(default_factory=BaseConfig)
    """The shape of the proxy that was tuned."""
    evidence: list[str] = setting(default_factory=list, changes_curve=False)
    """Where the tuned settings come from, in words. `foretrain transfer` writes it; it has no effect."""

    def __post_init__(self) -> None:
        needed = {"standard": (), "mup": ("d_model",), "completep": ("d_model", "num_layers")}[self.parametrization]
        for name in needed:
            require(
                getattr(self.base, name) is not None,
                f"parametrization={self.parametrization} needs the base shape at which the settings were tuned, and "
                f"base.{name} is not set: set mup.base.{name} to that of the proxy",
            )
