"""The output folder of `prepare`: a corpus is written into a hidden folder beside it, which is renamed at the end."""

import glob
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foretrain.data_pipeline.corpus.manifest import is_part_of_corpus
from foretrain.data_pipeline.errors import CorpusError
from foretrain.files import LockHeldError, lock

HASH_CHARS = 8


@contextmanager
def lock_output(out: Path) -> Iterator[None]:
    """Hold the lock of a corpus that is being prepared.

    Raises CorpusError, with the name of the holder, if another process holds it.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.with_name(f".{out.name}.lock")
    try:
        with lock(path, remove=True):
            yield
    except LockHeldError as error:
        raise CorpusError(
            f"{out} is being prepared by {error.holder}: wait for it, stop it, or choose another folder. Its lock ends "
            f"with it; on NFS, minutes after its machine. Do not delete {path} while it may run"
        ) from None


def partial_folder(out: Path, prepared_from: str) -> Path:
    """Return the path of the hidden folder for a corpus of these inputs and settings."""
    return out.with_name(f".{out.name}.partial-{prepared_from[:HASH_CHARS]}")


def remove_other_partials(out: Path, keep: Path) -> bool:
    """Remove the hidden folders of other inputs or settings; return whether there were any."""
    others = [path for path in out.parent.glob(f".{glob.escape(out.name)}.partial-*") if path != keep]
    for path in others:
        shutil.rmtree(path)
    return bool(others)


def check_is_free(out: Path, overwrite: bool) -> None:
    """Raise CorpusError unless the folder may be replaced: only files that `prepare` wrote are ever deleted."""
    if not out.exists():
        return
    if not out.is_dir():
        raise CorpusError(f"{out} is a file: choose a folder for the corpus")
    entries = sorted(out.iterdir())
    foreign = [entry.name for entry in entries if not is_part_of_corpus(entry.name)]
    if foreign:
        raise CorpusError(f"{out} holds {foreign[0]}, which is no part of a corpus: choose another folder")
    if entries and not overwrite:
        raise CorpusError(f"{out} already holds a corpus: choose another folder, or replace it with --overwrite")


def publish(partial: Path, out: Path) -> None:
    """Rename the finished folder. A previous corpus is deleted only after that."""
    if out.exists():
        old = out.with_name(f".{out.name}.old-{secrets.token_hex(4)}")
        out.replace(old)
        try:
            partial.replace(out)
        except BaseException:
            old.replace(out)
            raise
    else:
        partial.replace(out)
    for old in out.parent.glob(f".{glob.escape(out.name)}.old-*"):  # also that of a run that was killed at this point
        shutil.rmtree(old)
