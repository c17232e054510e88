"""A copy of the code in the run's folder: a job that waits for days runs what was launched, and no later edit."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from trainer.environment import VERSION_FILE, code_version

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("foretrain.py", "configs", "data_pipeline", "launcher", "parallel", "scaling", "slurm", "trainer", "verbs")
"""All that is installed, in ROOT."""
_SUFFIXES = frozenset({".py", ".yaml", ".in"})


def snapshot(folder: Path) -> str:
    """Make `folder` a copy of the code, unless it is one already, and return the sha256 of the code, in hex."""
    digest = code_hash(ROOT)
    if folder.is_dir() and code_hash(folder) == digest:
        return digest
    new = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    for path in _files(ROOT):
        target = new / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    (new / VERSION_FILE).write_text(f"{code_version() or 'unknown'}\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    new.replace(folder)
    return digest


def code_hash(root: Path) -> str:
    """The sha256, in hex, of the code below `root`: of the names and the contents of its files."""
    digest = hashlib.sha256()
    for path in _files(root):
        digest.update(f"{path.relative_to(root)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _files(root: Path) -> Iterator[Path]:
    for part in PARTS:
        path = root / part
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (file for file in found if file.suffix in _SUFFIXES and file.is_file())
