"""The checkpoints of a run, for somebody who looks at them: what each one is, and whether it is sound."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from foretrain.progress import byte_progress
from foretrain.trainer.checkpoint.checksums import DamagedError, read_trailer
from foretrain.trainer.checkpoint.folders import DAMAGED, NAME, PARTIAL
from foretrain.trainer.checkpoint.manifest import MANIFEST, check_content, content_bytes, has_manifest
from foretrain.trainer.checkpoint.places import Place, files_in
from foretrain.trainer.checkpoint.record import CheckpointRecord
from foretrain.trainer.checkpoint.remote.requests import RemoteError
from foretrain.trainer.run.folder import CHECKPOINTS, CONFIG_FILE, RECORD, checkpoints_in, step_of


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint, as its folder and its record show it."""

    path: Place
    step: int | None
    """Steps that were done; None if neither the name nor the record says it."""
    samples_consumed: int | None
    """Samples that the optimizer had consumed; None if the record cannot be read."""
    size_bytes: int
    """Bytes of all files."""
    written_s: float
    """When it was written, in seconds since 1970, by the time of the folder, or, on a server, of its list of files."""
    has_checksums: bool

    @classmethod
    def read(cls, path: Place) -> "Checkpoint":
        """The checkpoint in the folder `path`."""
        try:
            record = CheckpointRecord.read(path)
        except (ValueError, OSError):
            record = None
        name = path.absolute().name
        return cls(
            path=path,
            step=step_of(Path(name)) if NAME.fullmatch(name) else record.step if record else None,
            samples_consumed=record.samples_consumed if record else None,
            size_bytes=size_of(path),
            written_s=(path if isinstance(path, Path) else path / MANIFEST).stat().st_mtime,
            has_checksums=has_manifest(path),
        )


class Soundness(Enum):
    """Whether a checkpoint is what was written."""

    SOUND = "sound"
    DAMAGED = "damaged"
    UNKNOWN = "unknown"
    """It has no checksums, or it is gone."""


@dataclass(frozen=True)
class Verdict:
    """The result of a check of one checkpoint."""

    checkpoint: Place
    soundness: Soundness
    text: str
    """The result in words; for damage, what is damaged and where."""

    def __str__(self) -> str:
        return f"{self.checkpoint.absolute().name}: {self.text}"


def checkpoints_of(target: Place) -> list[Any]:
    """The complete checkpoints of a run or in a folder of a server; only `target`, if that is a checkpoint itself.

    The oldest is the first. Raises ValueError if the folder is neither a run nor a checkpoint.
    """
    if is_checkpoint(target):
        return [target]
    if isinstance(target, Path):
        check_run(target)
    elif not target.is_dir():
        raise ValueError(f"there is no folder {target}: give a checkpoint, or the train.checkpoint_folder of a run")
    return complete(target)


def is_checkpoint(folder: Place) -> bool:
    """Whether a folder is a checkpoint, under any name, or has the name of one."""
    if not isinstance(folder, Path):
        return (folder / MANIFEST).is_file() or bool(NAME.fullmatch(folder.name))
    named = NAME.fullmatch(folder.absolute().name) and not (folder / CHECKPOINTS).exists()
    return folder.is_dir() and bool(named or (folder / RECORD).is_file() or has_manifest(folder))


def check_run(run_dir: Path) -> None:
    """Raise ValueError, which says what to change, unless a folder is that of a run."""
    if not run_dir.is_dir():
        raise ValueError(f"there is no folder {run_dir}: give the folder of a run, which is the run_dir of its config")
    if is_checkpoint(run_dir):
        raise ValueError(f"{run_dir} is one checkpoint: give the folder of its run")
    if not (run_dir / CHECKPOINTS).is_dir() and not (run_dir / CONFIG_FILE).is_file():
        is_inside = run_dir.absolute().name == CHECKPOINTS
        instead = f"give {run_dir.absolute().parent}" if is_inside else "give the run_dir of a run's config"
        raise ValueError(f"{run_dir} is no run, since it has neither {CONFIG_FILE} nor {CHECKPOINTS}/: {instead}")


def complete(run: Place) -> list[Any]:
    """The complete checkpoints of a run, or in a folder of a server, oldest first."""
    return checkpoints_in(run).complete()


def leftovers(run: Place, *kinds: str) -> list[Any]:
    """The folders beside the checkpoints of a run that are PARTIAL or DAMAGED, kind by kind."""
    folder = checkpoints_in(run)
    return [path for kind in kinds for path in (folder.partial() if kind == PARTIAL else folder.damaged())]


def read_all(paths: Sequence[Place]) -> list[Checkpoint]:
    """The checkpoints in these folders, without those that the run removes at this moment."""
    found = []
    for path in paths:
        try:
            found.append(Checkpoint.read(path))
        except FileNotFoundError:
            continue
    return [checkpoint for checkpoint in found if checkpoint.path.is_dir()]


def size_of(folder: Place) -> int:
    """Bytes of all files in a folder, without those that are removed at this moment."""
    total = 0
    for path in folder.rglob("*") if isinstance(folder, Path) else folder.iterdir():
        try:
            total += path.stat(follow_symlinks=False).st_size if not path.is_dir() else 0
        except FileNotFoundError:
            continue
    return total


def check(checkpoint: Place, *, progress: bool = False) -> Verdict:
    """The result of reading every byte of a checkpoint. `progress`: show it on stderr.

    Raises PermissionError if a file may not be read, and RemoteError if a server does not answer.
    """
    try:
        if has_manifest(checkpoint):
            name = checkpoint.absolute().name
            with byte_progress(f"verifying {name}", content_bytes(checkpoint), enabled=progress) as advance:
                check_content(checkpoint, advance)
            return Verdict(checkpoint, Soundness.SOUND, "sound")
        _check_without_manifest(checkpoint)
    except (PermissionError, RemoteError):
        raise
    except DamagedError as error:
        damage = str(error)
    except OSError as error:
        damage = f"{error.filename or checkpoint} cannot be read ({error.strerror})"
    else:
        return Verdict(checkpoint, Soundness.UNKNOWN, "has no checksums: written by an earlier version")
    if not checkpoint.is_dir():
        return Verdict(checkpoint, Soundness.UNKNOWN, "was removed while it was verified")
    return Verdict(checkpoint, Soundness.DAMAGED, f"damaged: {damage}")


def _check_without_manifest(checkpoint: Place) -> None:
    """Raise DamagedError unless a folder without a list of checksums can be a checkpoint of an earlier version."""
    for path in files_in(checkpoint):
        if path.is_file() and read_trailer(path) is not None:
            raise DamagedError(f"{checkpoint / MANIFEST} is missing")
    try:
        CheckpointRecord.read(checkpoint)
    except ValueError as error:
        raise DamagedError(str(error)) from error


LEFTOVERS = {
    PARTIAL: "a save or a removal that is running or was interrupted; the next save removes it",
    DAMAGED: "a checkpoint that was found damaged, and is kept aside for inspection",
}
"""What a folder beside the checkpoints is, by the first letters of its name on a disk."""
