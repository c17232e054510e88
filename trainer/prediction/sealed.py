"""The seal of a file, which shows whether it was changed, and the reading of a sealed file.

A seal is the SHA-256 of everything else in the file, written as JSON with sorted keys and without spaces. It shows a
later change by accident or by hand. It cannot show who made the file: commit it, or publish its seal, before the run.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VERSION = 1
SEAL = "seal"
PREDICTION = "prediction"
"""What the file of a prediction says it is."""


def seal_of(values: Mapping[str, Any]) -> str:
    """The seal of a file with these values."""
    rest = {name: value for name, value in values.items() if name != SEAL}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_sealed(path: Path, kind: str, content: str | None = None) -> dict[str, Any]:
    """The values of a sealed file, its seal among them. `content`: what is in it, if it was read already.

    Raises ValueError, which names the file, if it is of another kind, or was changed after it was sealed.
    """
    try:
        text = path.read_text(encoding="utf-8") if content is None else content
        values = json.loads(text, object_pairs_hook=_unique, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a {kind}: {error}") from error
    if not isinstance(values, dict) or values.get("kind") != kind:
        raise ValueError(f"{path} is not a {kind}")
    version = values.get("version", VERSION)
    if isinstance(version, int) and version > VERSION:
        raise ValueError(f"{path} was written by a newer foretrain: update foretrain")
    if values.get(SEAL) != seal_of(values):
        raise ValueError(f"{path} was changed after it was sealed: restore it, or make a new {kind}")
    return values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of the file. A name that is there twice could show a reader another value than the sealed one."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {next(name for name in names if names.count(name) > 1)!r} twice")
    return values


def _refused(constant: str) -> None:
    raise ValueError(f"it has {constant}, which no sealed file has")
