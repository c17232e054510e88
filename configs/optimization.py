"""The `objective`, `optimizer` and `schedule` sections of a config."""

from dataclasses import dataclass, field
from typing import Literal

from foretrain.configs.checks import FLOAT32, require, require_not_negative, require_positive
from foretrain.configs.fields import setting

MIN_EPS, MAX_LR = FLOAT32
"""Limits of eps and lr: with the factors of muP they still fit float32. There, an eps of 1e-46 would be 0, and a weight
without a gradient would become 0 / 0."""


@dataclass
class ObjectiveConfig:
    """The objective: what a model learns from a sample."""

    kind: str = "next_token"
    """next_token, or an objective that a plugin registers."""
    options: dict[str, float] = field(default_factory=dict)
    """More settings by name, which only objectives of plugins have."""


@dataclass
class OptimizerConfig:
    """The optimizer and its settings."""

    kind: str = "adamw"
    """adamw, sgd (with momentum), or an optimizer that a plugin registers."""
    lr: float = 1e-3
    """Peak learning rate, which `mup` may scale for each parameter."""
    beta1: float = 0.9
    """Decay of the first moment; the momentum of sgd."""
    beta2: float = 0.95
    """Decay of the second moment; sgd ignores it."""
    eps: float = 1e-8
    """Added to the root of the second moment; sgd ignores it."""
    weight_decay: float = 0.1
    """Weight decay of matrices; gains of norms and biases do not decay. adamw decouples it from the gradient."""
    clip_norm: float = 1.0
    """Global L2 norm to which larger gradients are scaled down; 0: never."""
    options: dict[str, float] = setting(default_factory=dict, since="0.2.0")
    """More settings by name, which only optimizers of plugins have."""

    def __post_init__(self) -> None:
        require_positive(lr=self.lr, eps=self.eps)
        require(self.eps >= MIN_EPS, f"eps = {self.eps:g} is too small for float32: use {MIN_EPS:g} or more")
        require(self.eps <= MAX_LR, f"eps = {self.eps:g} is too large for float32: use {MAX_LR:g} or less")
        require(self.lr <= MAX_LR, f"lr = {self.lr:g} is too large for float32: use {MAX_LR:g} or less")
        for name in ("beta1", "beta2"):
            require(0 <= getattr(self, name) < 1, f"{name} = {getattr(self, name)} must be at least 0 and less than 1")
        require_not_negative(self, "weight_decay")
        require(self.clip_norm >= 0, f"clip_norm = {self.clip_norm} must not be negative")  # infinite: never, too


@dataclass
class ScheduleConfig:
    """The factor of every learning rate as a function of the tokens consumed."""

    kind: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape after warm-up. cosine, linear: from 1 to min_factor at the end of the run. constant: 1, then a linear decay
    over the last decay_tokens."""
    warmup_tokens: int = 0
    """Tokens of the linear warm-up from 0 to 1."""
    decay_tokens: int = 0
    """Tokens of the linear decay to min_factor at the end; for `constant` only."""
    min_factor: float = 0.1
    """Factor at the end of the run."""

    def __post_init__(self) -> None:
        require_not_negative(self, "warmup_tokens", "decay_tokens", "min_factor")
        require(self.min_factor <= 1, f"min_factor = {self.min_factor:g} must be at most 1, from which the rate falls")
