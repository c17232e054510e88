"""Checks of values that a user can get wrong."""

import unicodedata
from math import inf
from typing import Any

MAX_NUMBER = 2**62
"""Upper limit of every integer of a config: sums of two still fit int64, in which samples and tokens are counted."""
FLOAT32 = 1e-30, 1e30
"""Limits of settings that go into float32 arithmetic: their products and quotients with moderate factors still fit."""


PASSWORD_ADVICE = (
    "has a password in its URL, and others can read a config: put it into the configuration of fsspec "
    "(~/.config/fsspec, or FSSPEC_PROTOCOL in your shell), and leave USER:PASSWORD@ out"
)


def require(condition: bool, message: str) -> None:
    """Raise ValueError(message) unless condition holds."""
    if not condition:
        raise ValueError(message)


def require_not_negative(section: object, *names: str) -> None:
    """Raise ValueError, which names it, unless each of these settings of a section is None, or 0 or more.

    It must also be finite, and if it is an integer at most MAX_NUMBER.
    """
    for name in names:
        value = getattr(section, name)
        require(value is None or value >= 0, f"{name} = {value} must not be negative")
        _require_limited(name, value)


def require_positive(**values: float | None) -> None:
    """Raise ValueError, which names the value, unless every value is None or greater than 0.

    It must also be finite, and if it is an integer at most MAX_NUMBER.
    """
    for name, value in values.items():
        require(value is None or value > 0, f"{name} = {value} must be greater than 0")
        _require_limited(name, value)


def require_seeds(section: object, *names: str) -> None:
    """Raise ValueError, which names the setting, unless each of these settings is a number that generators accept."""
    for name in names:
        value = getattr(section, name)
        require(abs(value) <= MAX_NUMBER, f"{name} = {value} must be between -2^62 and 2^62: choose a smaller seed")


def _require_limited(name: str, value: Any) -> None:
    if isinstance(value, int):
        require(
            value <= MAX_NUMBER, f"{name} must be at most 2^62 (4.6e18), as samples and tokens are counted in int64"
        )
    else:
        require(value is None or value < inf, f"{name} = {value} must be finite")


def require_no_control_characters(name: str, text: str) -> None:
    """Raise ValueError, which names the value, if a text has a line break or another control character.

    A path is shown in terminals, and is in the comments and options of scripts, which a line break would end.
    """
    found = [char for char in text if unicodedata.category(char) in ("Cc", "Zl", "Zp")]
    require(not found, f"{name} = {text!r} has a control character ({', '.join(map(repr, found))}): leave it out")
