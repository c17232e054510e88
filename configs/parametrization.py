"""The knobs of how initial weights, learning rates and multipliers follow from a model's shape: `mup` in a config."""

from dataclasses import dataclass, field
from typing import Literal

from foretrain.configs.checks import require, require_positive
from foretrain.configs.fields import setting


@dataclass
class BaseConfig:
    """The shape at which a parametrization is the standard one: that of the proxy that the settings were tuned on.

    What is left out is the model's own, in proportion: `d_ff` and the numbers of heads go with d_model.
    """

    d_model: int | None = None
    """Width of the residual stream."""
    num_layers: int | None = None
    """Transformer blocks; None: as many as the model has."""
    num_heads: int | None = None
    """Query heads; None: in proportion to d_model."""
    num_kv_heads: int | None = None
    """Key and value heads; None: in proportion to num_heads."""
    head_dim: int | None = None
    """Width of one head; None: what the model's is, or d_model / num_heads where it has none set."""
    d_ff: int | None = None
    """Hidden width of the feed-forward layer; None: in proportion to d_model."""

    def __post_init__(self) -> None:
        require_positive(**vars(self))


@dataclass
class MupConfig:
    """Maximal update parametrization: settings that are tuned at a base shape hold at every other one."""

    parametrization: Literal["standard", "mup", "completep"] = "standard"
    """standard: every width and depth needs its own settings. mup: the learning rate, its decay and `init_std` carry
    over to other widths. completep: to other depths too."""
    base: BaseConfig = field(default_factory=BaseConfig)
    """The shape at which the parametrization is the standard one."""
    evidence: list[str] = setting(default_factory=list, changes_curve=False)
    """Where tuned settings came from, in words: `foretrain transfer` writes it, and it changes nothing."""

    def __post_init__(self) -> None:
        needed = {"standard": (), "mup": ("d_model",), "completep": ("d_model", "num_layers")}[self.parametrization]
        for name in needed:
            require(
                getattr(self.base, name) is not None,
                f"parametrization={self.parametrization} carries over what was tuned at a base shape, and "
                f"base.{name} is not set: set mup.base.{name} to that of the proxy",
            )
