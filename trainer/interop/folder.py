"""The folder of an exported model: written under another name, and complete from the moment on when it has its own."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foretrain.files import LockHeldError, lock, sync

MARK = "foretrain_export.json"
"""The file that says of a folder that an export has made it, and of which checkpoint."""


def check_is_free(out: Path, *, overwrite: bool) -> None:
    """Raise ValueError unless a folder may be made at `out`: it is absent or empty, or an export to be replaced."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"{out} is not a folder: choose another one")
    names = sorted(path.name for path in out.iterdir())
    if not names:
        return
    if MARK not in names:
        raise ValueError(f"{out} holds {names[0]} and is not an export of foretrain: choose another folder")
    if not overwrite:
        raise ValueError(f"{out} is an earlier export: choose another folder, or replace it with --overwrite")


@contextmanager
def replacing_folder(out: Path, mark: Mapping[str, Any], *, overwrite: bool) -> Iterator[Path]:
    """Yield a new folder beside `out`, which becomes `out` when the block ends. It has the file MARK.

    If the block raises, also by Ctrl-C, the new folder is removed and `out` stays as it was. What a killed export has
    left is removed by the next one to the same folder. Raises ValueError as `check_is_free` does, and while another
    export writes to the same folder.
    """
    out = out.resolve()
    check_is_free(out, overwrite=overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    new, old = (out.with_name(f".{out.name}.{state}") for state in ("partial", "replaced"))
    try:
        with lock(out.with_name(f".{out.name}.lock"), remove=True):
            if not out.exists() and _is_export(old):
                old.rename(out)  # killed between two renames
                check_is_free(out, overwrite=overwrite)
            for left in (new, old):
                _remove(left)
            try:
                new.mkdir()
                (new / MARK).write_text(json.dumps(mark, indent=1) + "\n", encoding="utf-8")
                yield new
                _publish(new, out, old)
            finally:
                _remove(new)
    except LockHeldError as error:
        raise ValueError(f"{out} is being written by {error.holder}: wait until it has ended") from error


def _publish(new: Path, out: Path, old: Path) -> None:
    for path in (*new.iterdir(), new):
        sync(path)
    try:
        if _is_export(out):
            out.rename(old)
        new.rename(out)
    except BaseException:
        if _is_export(old) and not out.exists():
            old.rename(out)
        raise
    sync(out.parent)
    _remove(old)


def _is_export(folder: Path) -> bool:
    return (folder / MARK).is_file()


def _remove(folder: Path) -> None:
    """Remove a folder that an export has made; any other is left, and makes the next step fail."""
    if not _is_export(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        return
    for path in folder.iterdir():
        if path.name != MARK:  # removed last, so that a folder of which half is removed is known for what it is
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.rmtree(folder)
