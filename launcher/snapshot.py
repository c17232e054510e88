"""A copy of the code in the run's folder: a job that waits for days runs the code that was launched."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from foretrain.trainer.run.environment import VERSION_FILE, code_version

PACKAGE = Path(__file__).parents[1]
"""The package that runs, installed or in a checkout. Its folders may be links."""
_SUFFIXES = frozenset({".py", ".yaml", ".in"})


def snapshot(folder: Path) -> str:
    """Make `folder` a copy of the code, unless it is one already, and return the sha256 of the code, in hex."""
    digest = code_hash(PACKAGE)
    if folder.is_dir() and code_hash(folder / PACKAGE.name) == digest:
        return digest
    new = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    for path in _files(PACKAGE):
        target = new / PACKAGE.name / path.relative_to(PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    (new / PACKAGE.name / VERSION_FILE).write_text(f"{code_version() or 'unknown'}\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    new.replace(folder)
    return digest


def code_hash(package: Path) -> str:
    """The sha256, in hex, of the names and the contents of all files of code in `package`."""
    digest = hashlib.sha256()
    for path in _files(package):
        digest.update(f"{path.relative_to(package)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _files(package: Path) -> Iterator[Path]:
    # os.walk can follow links; Path.rglob of Python 3.11 cannot.
    paths = (Path(folder, name) for folder, _, names in os.walk(package, followlinks=True) for name in names)
    yield from sorted(path for path in paths if path.suffix in _SUFFIXES)
