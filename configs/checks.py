"""Checks of values that a user can get wrong."""

from math import inf


def require(condition: bool, message: str) -> None:
    """Raise ValueError(message) unless condition holds."""
    if not condition:
        raise ValueError(message)


def require_not_negative(section: object, *names: str) -> None:
    """Raise ValueError, which names the setting, unless each of these settings of a section is None or at least 0."""
    for name in names:
        value = getattr(section, name)
        require(value is None or value >= 0, f"{name} = {value} must not be negative")


def require_positive(**values: float | None) -> None:
    """Raise ValueError, which names the value, unless every value is None or a finite number greater than 0."""
    for name, value in values.items():
        require(value is None or value > 0, f"{name} = {value} must be greater than 0")
        require(value is None or value < inf, f"{name} = {value} must be finite")
