"""Files that only their owner can read."""

from pathlib import Path

from foretrain.files import naming, replacing


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, also while it is written; all or nothing."""
    with naming(path), replacing(path) as temporary:
        temporary.touch(mode=0o600, exist_ok=False)
        temporary.write_text(text, encoding="utf-8")
