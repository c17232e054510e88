"""What a model learns from a sample: `objective` in a config."""

from dataclasses import dataclass, field


@dataclass
class ObjectiveConfig:
    """The objective and its settings."""

    kind: str = "next_token"
    """The objective: next_token, or one that a plugin registers."""
    options: dict[str, float] = field(default_factory=dict)
    """Settings of a plugin's objective, by the names that it gives them."""
