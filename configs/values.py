"""Converts a value as it was written to the type that the schema gives its key."""

import math
import re
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

from foretrain.configs.sources import Value

TRUE, FALSE = ("true", "yes", "on"), ("false", "no", "off")


def convert(value: Value, kind: Any) -> Any:
    """`value` as `kind`: str, bool, int, float, a Literal, a list of these, or one of these or None.

    References (`${model.d_model}`) stay as they are. Raises ValueError, which says what was expected, also for a call
    of a function of OmegaConf: `${oc.env:HF_TOKEN}` would write a secret into a file that others can read.
    """
    if get_origin(kind) is UnionType:
        if value is None:
            return None
        (kind,) = (option for option in get_args(kind) if option is not NoneType)
    if value is None:
        raise ValueError("null is not allowed here")
    if isinstance(value, str) and "${" in value:
        _refuse_calls(value)
        return value
    if get_origin(kind) is list:
        if not isinstance(value, list):
            raise ValueError(f"'{value}' is not a list, which is written [{value}]")
        return [convert(item, *get_args(kind)) for item in value]
    if isinstance(value, list):
        raise ValueError("a list is not allowed here")
    if get_origin(kind) is Literal:
        return _choice(value, get_args(kind))
    return READERS[kind](value)


def _refuse_calls(text: str) -> None:
    """Raise ValueError if a reference in the text calls a function, as in `${oc.env:NAME}`.

    Only a call has a colon between its braces, however deep these are nested.
    """
    depth = 0
    for backslashes, mark in re.findall(r"(\\*)(\$\{|[{}:])", text):
        if mark == "${" and depth:
            raise ValueError(f"'{text}' calls a function, or has a reference in another one: write the value itself")
        if (mark == "${" and len(backslashes) % 2 == 0) or (mark in ("{", "${") and depth):
            depth += 1
        elif mark == "}":
            depth = max(0, depth - 1)
        elif mark == ":" and depth:
            raise ValueError(
                f"'{text}' calls a function, and a config may only refer to other settings, as in ${{model.d_model}}: "
                "write the value itself"
            )


def _choice(text: str, options: tuple[Any, ...]) -> Any:
    for option in options:
        if str(option) == text:
            return option
    raise ValueError(f"'{text}' is not one of {', '.join(str(option) for option in options)}")


def _read_bool(text: str) -> bool:
    if text.lower() not in TRUE + FALSE:
        raise ValueError(f"'{text}' is neither true nor false")
    return text.lower() in TRUE


def _read_int(text: str) -> int:
    """The integer of 4, 1_000, 300e9 or 2^20."""
    try:
        return int(text)
    except ValueError:
        number = _read_float(text)
    if not number.is_integer():
        raise ValueError(f"{text} is not a whole number")
    return int(number)


def _read_float(text: str) -> float:
    """The number of 4, 1_000, 1e-3, .inf, 2^-7 or 2**-7."""
    base, power, exponent = text.lower().replace(".inf", "inf").replace("^", "**").partition("**")
    try:
        return math.pow(float(base), float(exponent)) if power else float(base)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"'{text}' is not a number") from error


READERS: dict[Any, Callable[[str], Any]] = {str: str, bool: _read_bool, int: _read_int, float: _read_float}
