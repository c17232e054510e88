"""Dataclasses read from JSON that others may have written: every field is checked."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

Record = TypeVar("Record")
SHOWN_CHARS = 100
"""Characters of a wrong value in a message."""


def from_json(kind: type[Record], text: str | bytes, version: int) -> Record:
    """The dataclass in a JSON object, whose keys are its fields; others are ignored, and lists may stand for tuples.

    Raises ValueError if the text is no such object, or if its `version` is later than `version`.
    """
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError(f"it is a {type(found).__name__} and not an object")
    its_version = found.get("version", 1)
    if isinstance(its_version, int) and its_version > version:
        raise ValueError(f"its version is {its_version}: update foretrain")
    return from_values(kind, found)


def from_values(kind: type[Record], found: Mapping[str, Any]) -> Record:
    """The dataclass in values that JSON can hold, by the names of its fields. Raises ValueError as `from_json` does."""
    hints = get_type_hints(kind)
    values = {}
    for each in fields(kind):  # type: ignore[arg-type]  # a dataclass, for which Python has no type
        if each.name in found:
            values[each.name] = _converted(found[each.name], hints[each.name], each.name)
        elif each.default is MISSING and each.default_factory is MISSING:
            raise ValueError(f"it has no {each.name}")
    return kind(**values)


def _converted(value: Any, annotation: Any, name: str) -> Any:
    """A value of JSON as a value of an annotated type. Raises ValueError, which names the field."""
    origin, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if origin is UnionType:
        kinds = [each for each in arguments if _is_a(value, each)]
        return _converted(value, kinds[0], name) if kinds else _refuse(value, name)
    if not _is_a(value, annotation):
        _refuse(value, name)
    if origin is dict and arguments:
        return {key: _converted(each, arguments[1], name) for key, each in value.items()}
    if origin in (list, tuple) and arguments:
        kinds = [arguments[0]] * len(value) if origin is list or arguments[1:] == (...,) else [*arguments]
        if len(kinds) != len(value):
            _refuse(value, name)
        return origin(_converted(each, kind, name) for each, kind in zip(value, kinds, strict=True))
    return value


def _is_a(value: Any, annotation: Any) -> bool:
    """Whether a value of JSON is of the outer type of an annotation. True is no number."""
    origin = get_origin(annotation) or annotation
    if origin is Any:
        return True
    if origin is UnionType:
        return any(_is_a(value, each) for each in get_args(annotation))
    if origin is Literal:
        return value in get_args(annotation)
    if isinstance(value, bool):
        return origin is bool
    if origin is float:
        return isinstance(value, int | float)
    return isinstance(value, list if origin is tuple else origin)


def _refuse(value: Any, name: str) -> Any:
    raise ValueError(f"its {name} is {repr(value)[:SHOWN_CHARS]}")
