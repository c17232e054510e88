"""Every dotted key of the schema, such as `train.seed`: its type, and what else its field says about it."""

import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from typing import Any, get_args, get_origin, get_type_hints

from foretrain.configs.schema import Config

NAME = "NAME"
"""Part of a key in KEYS for which users choose the names, of letters, digits, _ and -: `data.sources.NAME.path`."""


@dataclass(frozen=True)
class Key:
    """A section, or a setting and its default."""

    kind: Any
    """Its type; a dataclass or a dict for a section."""
    default: Any
    """MISSING below a name that users choose."""
    changes_curve: bool = True
    """Whether another value gives another loss curve. False for a section means all its settings."""
    since: str | None = None
    """The version that added it; None: the first release."""

    @property
    def is_section(self) -> bool:
        """Whether there are keys below it."""
        return is_dataclass(self.kind) or get_origin(self.kind) is dict


def _below(parent: Key, key: str = "") -> Iterator[tuple[str, Key]]:
    """Every key below `parent`, which is the key `key`."""
    if get_origin(parent.kind) is dict:
        children = {NAME: replace(parent, kind=get_args(parent.kind)[1], default=MISSING)}
    elif is_dataclass(parent.kind):
        hints = get_type_hints(parent.kind)
        children = {field.name: _child(parent, field, hints[field.name]) for field in fields(parent.kind)}
    else:
        return
    for name, child in children.items():
        child_key = f"{key}.{name}".removeprefix(".")
        yield child_key, child
        yield from _below(child, child_key)


def _child(parent: Key, field: Field[Any], kind: Any) -> Key:
    return Key(
        kind,
        field.default if field.default_factory is MISSING else field.default_factory(),
        parent.changes_curve and field.metadata.get("changes_curve", True),
        field.metadata.get("since") or parent.since,
    )


ROOT = Key(Config, Config())
KEYS: dict[str, Key] = dict(_below(ROOT))
"""Every key in the schema's order, sections included."""


def find_key(key: str) -> Key | None:
    """What the schema says about a key, in which NAME may be any name; None if there is no such key.

    The empty key is the config itself.
    """
    if not key:
        return ROOT
    template = ""
    for part in key.split("."):
        parent = KEYS.get(template)
        takes_names = parent is not None and get_origin(parent.kind) is dict
        if takes_names and not re.fullmatch(r"[\w-]+", part):
            return None
        template = f"{template}.{NAME if takes_names else part}".removeprefix(".")
    return KEYS.get(template)


def changes_curve(key: str) -> bool:
    """Whether another value of this setting gives another loss curve.

    For a section, False means that no setting in it does. True for a key that does not exist.
    """
    found = find_key(key)
    return found is None or found.changes_curve
