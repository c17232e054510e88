"""Append-only records of a run: one JSON line per entry. A line that was cut short loses that entry alone."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from foretrain.files import naming


def append(path: Path, entry: Mapping[str, Any]) -> None:
    """Add an entry. It is not in the record if this raises OSError, unless the file cannot be closed."""
    left = f"\n{json.dumps(entry)}\n".encode()  # a node may have died while it wrote the line before
    # Without a buffer, which Python would write once more when it closes the file after an error.
    with naming(path), path.open("ab", buffering=0) as file:
        while left:
            left = left[file.write(left) :]


def entries(path: Path) -> list[dict[str, Any]]:
    """All complete entries, oldest first; none if there is no record."""
    found = []
    try:
        with naming(path):
            lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        with suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found
