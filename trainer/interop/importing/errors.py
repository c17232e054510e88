"""The refusal of a model that cannot be imported, and the JSON files of a model folder. No torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foretrain.files import read_bounded
from foretrain.printable import error_message

AGAIN = "copy or download it again"
"""What to do about a file that is not complete."""
_SHOWN_CHARS = 100


class UnfitError(ValueError):
    """A model folder cannot be imported. The message names the file and what is in the way.

    What it quotes was written by others: control characters in it are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(error_message(message))


def read_object(path: Path, max_bytes: int) -> dict[str, Any]:
    """The JSON object in a file. Raises UnfitError if there is none, and if the file has more than `max_bytes`."""
    content = read_bounded(path, max_bytes, UnfitError)
    try:
        found = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise UnfitError(f"{path} is not JSON ({error}): {AGAIN}") from error
    if not isinstance(found, dict):
        raise UnfitError(f"{path} is not a JSON object: {AGAIN}")
    return found


def shown(value: object) -> str:
    """A value of a JSON file in a message."""
    return json.dumps(value)[:_SHOWN_CHARS]


def listed(names: Mapping[str, object] | list[str]) -> str:
    """The first names of many in a message, and how many more there are."""
    first = [name[:_SHOWN_CHARS] for name in list(names)[:3]]
    more = len(names) - len(first)
    return ", ".join(first) + (f" and {more:,} more" if more else "")
