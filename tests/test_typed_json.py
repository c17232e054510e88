"""Tests of dataclasses that are read from JSON."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain.typed_json import from_json


@dataclass(frozen=True)
class Example:
    """One field of each type that records have."""

    count: int
    kind: Literal["a", "b"]
    loss: float | None = None
    ranges: tuple[tuple[int, int], ...] = ()
    values: dict[str, list[float]] = field(default_factory=dict)
    anything: dict[str, Any] = field(default_factory=dict)
    is_done: bool = False


def read(**values: Any) -> Example:
    return from_json(Example, json.dumps({"count": 1, "kind": "a"} | values), 1)


def test_what_was_written_is_read_with_its_tuples() -> None:
    example = Example(3, "b", 2, ((1, 2), (3, 4)), {"x": [1, 2.5]}, {"y": [None]}, True)
    assert from_json(Example, json.dumps(asdict(example)), 1) == example


def test_unknown_keys_are_ignored() -> None:
    assert read(other=[1]) == Example(1, "a")


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"count": "1"}, "its count is '1'"),
        ({"count": True}, "its count is True"),
        ({"count": 1.0}, r"its count is 1\.0"),
        ({"kind": "c"}, "its kind is 'c'"),
        ({"kind": []}, r"its kind is \[\]"),
        ({"loss": "low"}, "its loss is 'low'"),
        ({"ranges": [[1, 2, 3]]}, r"its ranges is \[1, 2, 3\]"),
        ({"ranges": [[1, None]]}, "its ranges is None"),
        ({"values": {"x": 1}}, "its values is 1"),
        ({"values": {"x": [[]]}}, r"its values is \[\]"),
        ({"version": 2}, "its version is 2: update foretrain"),
        ({"count": "x" * 1000}, "its count is 'x{99}$"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_name(values: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        read(**values)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[]", "it is a list and not an object"),
        ('{"kind": "a"}', "it has no count"),
        ("[" * 100_000, "it is nested too deeply"),
        (b"\xff", "can't decode"),
    ],
)
def test_what_is_no_such_object_is_refused(text: str | bytes, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        from_json(Example, text, 1)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner)))
def test_any_value_of_any_field_is_read_or_refused(value: object) -> None:
    for name in asdict(Example(1, "a")):
        try:
            found = read(**{name: value})
        except ValueError:
            continue
        assert type(getattr(found, name)) in (int, str, float, tuple, dict, bool, type(None))
