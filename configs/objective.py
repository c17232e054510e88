"""The `objective` section of a config: what a model learns from a sample."""

from dataclasses import dataclass, field


@dataclass
class ObjectiveConfig:
    """The objective and its settings."""

    kind: str = "next_token"
    """next_token, or an objective that a plugin registers."""
    options: dict[str, float] = field(default_factory=dict)
    """More settings by name, which only objectives of plugins have."""
