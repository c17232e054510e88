"""The folder of an exported or imported model: written under another name, and complete as soon as it has its own."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foretrain.files import LockHeldError, lock, sync

MARK = "foretrain_export.json"
"""The file that says of a folder that an export has made it, and of which checkpoint."""


@dataclass(frozen=True)
class FolderKind:
    """What makes a folder."""

    name: str
    mark: str
    """The file that says of a folder that it was made so."""
    is_replaced: bool
    """Whether an earlier one may be replaced by another of the same kind."""


EXPORT = FolderKind("export", MARK, is_replaced=True)
IMPORT = FolderKind("import", "foretrain_import.json", is_replaced=False)
"""Its checkpoint may be named in configs of runs, which would start from other weights."""


def check_is_free(out: Path, *, overwrite: bool, kind: FolderKind = EXPORT) -> None:
    """Raise ValueError unless a folder may be made at `out`: it is absent, empty, or an earlier one to be replaced."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"{out} is not a folder: choose another one")
    names = sorted(path.name for path in out.iterdir())
    if not names:
        return
    if kind.mark not in names:
        raise ValueError(f"{out} holds {names[0]} and is not an {kind.name} of foretrain: choose another folder")
    if not overwrite:
        instead = ", or replace it with --overwrite" if kind.is_replaced else ", or remove it"
        raise ValueError(f"{out} is an earlier {kind.name}: choose another folder{instead}")


@contextmanager
def replacing_folder(
    out: Path, mark: Mapping[str, Any], *, overwrite: bool, kind: FolderKind = EXPORT
) -> Iterator[Path]:
    """Yield a new folder beside `out`, which becomes `out` when the block ends. It has the file with the mark.

    If the block raises, also by Ctrl-C, the new folder is removed and `out` stays as it was. What a killed process has
    left is removed by the next one with the same folder. Raises ValueError as `check_is_free` does, and while another
    process writes to the same folder.
    """
    out = out.resolve()
    check_is_free(out, overwrite=overwrite, kind=kind)
    out.parent.mkdir(parents=True, exist_ok=True)
    new, old = (out.with_name(f".{out.name}.{state}") for state in ("partial", "replaced"))
    try:
        with lock(out.with_name(f".{out.name}.lock"), remove=True):
            if not out.exists() and _is_made(old, kind):
                old.rename(out)  # killed between two renames
                check_is_free(out, overwrite=overwrite, kind=kind)
            for left in (new, old):
                _remove(left, kind)
            try:
                new.mkdir()
                (new / kind.mark).write_text(json.dumps(mark, indent=1) + "\n", encoding="utf-8")
                yield new
                _publish(new, out, old, kind)
            finally:
                _remove(new, kind)
    except LockHeldError as error:
        raise ValueError(f"{out} is being written by {error.holder}: wait until it has ended") from error


def _publish(new: Path, out: Path, old: Path, kind: FolderKind) -> None:
    for path in (*new.iterdir(), new):
        sync(path)
    try:
        if _is_made(out, kind):
            out.rename(old)
        new.rename(out)
    except BaseException:
        if _is_made(old, kind) and not out.exists():
            old.rename(out)
        raise
    sync(out.parent)
    _remove(old, kind)


def _is_made(folder: Path, kind: FolderKind) -> bool:
    return (folder / kind.mark).is_file()


def _remove(folder: Path, kind: FolderKind) -> None:
    """Remove a folder that was made so; any other is left, and makes the next step fail."""
    if not _is_made(folder, kind) and not (folder.is_dir() and not any(folder.iterdir())):
        return
    for path in folder.iterdir():
        if path.name != kind.mark:  # removed last, so that a folder of which half is removed is known for what it is
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.rmtree(folder)
