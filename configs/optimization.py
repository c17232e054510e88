"""The knobs of the optimizer and its learning rate over a run: `optimizer` and `schedule` in a config."""

from dataclasses import dataclass
from typing import Literal

from foretrain.configs.checks import require, require_positive
from foretrain.configs.fields import setting

MAX_LR = 1e30
"""What a model does with it, and with what `mup` makes of it, still fits float32."""


@dataclass
class OptimizerConfig:
    """The optimizer and its settings."""

    kind: str = "adamw"
    """The optimizer: adamw, sgd (with momentum), or one that a plugin registers."""
    lr: float = 1e-3
    """Peak learning rate, which `mup` may scale for each parameter."""
    beta1: float = 0.9
    """Decay of the first moment; for sgd its momentum."""
    beta2: float = 0.95
    """Decay of the second moment; sgd has none."""
    eps: float = 1e-8
    """Added to the root of the second moment; sgd ignores it."""
    weight_decay: float = 0.1
    """Weight decay, decoupled in adamw, on matrices only: no norm gain and no bias decays."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this global L2 norm; 0: never."""
    options: dict[str, float] = setting(default_factory=dict, since="0.2.0")
    """Settings of a plugin's optimizer, by the names that it gives them."""

    def __post_init__(self) -> None:
        require_positive(lr=self.lr, eps=self.eps)
        require(self.lr <= MAX_LR, f"lr = {self.lr:g} is no learning rate: use {MAX_LR:g} or less")
        for name in ("beta1", "beta2"):
            require(0 <= getattr(self, name) < 1, f"{name} = {getattr(self, name)} must lie in [0, 1)")
        for name in ("weight_decay", "clip_norm"):
            require(getattr(self, name) >= 0, f"{name} = {getattr(self, name)} must not be negative")


@dataclass
class ScheduleConfig:
    """The factor on every learning rate, as a function of tokens consumed."""

    kind: Literal["cosine", "linear", "constant"] = "cosine"
    """After warm-up: cosine or linear to min_factor at the budget's end, or constant and a linear decay at the end."""
    warmup_tokens: int = 0
    """Linear warm-up from 0 over this many tokens."""
    decay_tokens: int = 0
    """`constant` only: the last this many tokens fall linearly to min_factor."""
    min_factor: float = 0.1
    """The factor at the end of the budget."""

    def __post_init__(self) -> None:
        for name in ("warmup_tokens", "decay_tokens", "min_factor"):
            require(getattr(self, name) >= 0, f"{name} = {getattr(self, name)} must not be negative")
