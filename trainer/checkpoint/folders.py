"""A folder of checkpoints: which of them are complete, and how one becomes complete, is removed or is set aside.

On a disk, a checkpoint has another name until it is complete, while it is removed, and after it was found damaged. A
folder with another name than that of a step, or without a record, is not a checkpoint: none is loaded or removed.
Object stores cannot rename a folder, so there the list of checksums, which is written last and removed first, says
whether a checkpoint is complete. Nor is a damaged one copied there: its list gets another name.
"""

import logging
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from foretrain.files import is_file, is_folder, sync
from foretrain.trainer.checkpoint.places import Place
from foretrain.trainer.checkpoint.remote.path import RemotePath

PARTIAL = "partial-"
"""What the name of a folder on a disk begins with while it is written or removed."""
DAMAGED = "damaged-"
"""What the name of a checkpoint, or of its list of checksums on a server, begins with after it was found damaged."""
MANIFEST = "checksums.json"
"""The list of a checkpoint's files, with their checksums."""
_DAMAGED_MANIFEST = f"{DAMAGED}{MANIFEST}"
RECORD = "run.json"
"""The record in a checkpoint; see trainer/checkpoint/record.py."""
NAME = re.compile(r"step-(?:[0-9]{8}|[1-9][0-9]{8,})")
"""The name of a checkpoint."""

AnyPlace = TypeVar("AnyPlace", Path, RemotePath)
logger = logging.getLogger(__name__)


class CheckpointFolder(ABC, Generic[AnyPlace]):
    """The checkpoints in one folder."""

    def __init__(self, place: AnyPlace) -> None:
        self.place: AnyPlace = place

    def path(self, step: int) -> AnyPlace:
        """Where the checkpoint of a step is when it is complete."""
        return self.place / f"step-{step:08d}"

    def complete(self) -> list[AnyPlace]:
        """Complete checkpoints, oldest first."""
        return sorted(filter(self.is_complete, self._named()), key=lambda path: int(path.name.removeprefix("step-")))

    def newest(self) -> AnyPlace | None:
        """The newest complete checkpoint; None if there is none."""
        by_step = sorted(self._named(), key=lambda path: int(path.name.removeprefix("step-")), reverse=True)
        return next(filter(self.is_complete, by_step), None)

    @abstractmethod
    def children(self) -> list[AnyPlace]:
        """All folders in the folder, by name. Raises OSError if they are not known."""

    def _named(self) -> Iterator[AnyPlace]:
        return (path for path in self.children() if NAME.fullmatch(path.name))

    @abstractmethod
    def is_complete(self, checkpoint: AnyPlace) -> bool:
        """Whether a folder with the name of a checkpoint is complete."""

    @abstractmethod
    def partial(self) -> list[AnyPlace]:
        """What saves and removals that are running or were interrupted have left."""

    @abstractmethod
    def damaged(self) -> list[AnyPlace]:
        """The checkpoints that were kept aside as damaged."""

    @abstractmethod
    def unfinished(self, target: AnyPlace) -> AnyPlace:
        """Where the files of a checkpoint are written that will be complete as `target`."""

    @abstractmethod
    def publish(self, written: AnyPlace, target: AnyPlace) -> None:
        """Make a checkpoint complete, all files of which are written."""

    @abstractmethod
    def remove(self, checkpoint: AnyPlace) -> None:
        """Remove a checkpoint, or what `partial` has found. It is incomplete from the first moment on."""

    @abstractmethod
    def set_aside(self, checkpoint: AnyPlace) -> str:
        """Keep a damaged checkpoint so that no run resumes from it. Returns the name by which it is found.

        Raises FileNotFoundError if it is gone.
        """

    def clear(self, target: AnyPlace) -> None:
        """Remove what was set aside where the files of the checkpoint `target` are going to be written."""


class LocalFolder(CheckpointFolder[Path]):
    """A folder of a disk. A checkpoint has its name as long as it is complete."""

    def children(self) -> list[Path]:
        try:
            return sorted(filter(is_folder, self.place.iterdir()))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def is_complete(self, checkpoint: Path) -> bool:
        return is_file(checkpoint / RECORD)  # else somebody else has made the folder

    def partial(self) -> list[Path]:
        return [path for path in self.children() if path.name.startswith(PARTIAL)]

    def damaged(self) -> list[Path]:
        return [path for path in self.children() if path.name.startswith(DAMAGED)]

    def unfinished(self, target: Path) -> Path:
        return target.with_name(f"{PARTIAL}{target.name}")

    def publish(self, written: Path, target: Path) -> None:
        for path in (*filter(is_file, written.iterdir()), written):
            sync(path)
        try:
            written.replace(target)
        except OSError:
            # A server may have renamed it, although its answer was lost.
            if is_folder(written) or not self.is_complete(target):
                raise
        try:
            sync(self.place)
        except OSError as error:  # it is complete: to save it again would find it in its own way
            logger.warning("%s is written, and a power cut may still undo its name (%s)", target, error)

    def remove(self, checkpoint: Path) -> None:
        if not checkpoint.name.startswith(PARTIAL):
            # Under its own name, a folder that is half deleted would look like a checkpoint.
            checkpoint = checkpoint.rename(self.unfinished(checkpoint))
        if checkpoint.is_symlink():
            checkpoint.unlink()
        else:
            shutil.rmtree(checkpoint)

    def set_aside(self, checkpoint: Path) -> str:
        number, kept = 1, checkpoint.with_name(f"{DAMAGED}{checkpoint.name}")
        while kept.exists():
            number += 1
            kept = checkpoint.with_name(f"{DAMAGED}{checkpoint.name}-{number}")
        checkpoint.rename(kept)
        return kept.name


class RemoteFolder(CheckpointFolder[RemotePath]):
    """A folder of a server. A checkpoint is complete as long as it has its list of checksums."""

    def children(self) -> list[RemotePath]:
        try:
            return list(self.place.iterdir())  # without a request for each, whether it is a folder
        except FileNotFoundError:
            return []

    def is_complete(self, checkpoint: RemotePath) -> bool:
        return (checkpoint / MANIFEST).is_file()

    def partial(self) -> list[RemotePath]:
        return [path for path in self._named() if not self.is_complete(path) and not self._is_damaged(path)]

    def damaged(self) -> list[RemotePath]:
        return [path for path in self._named() if self._is_damaged(path)]

    def unfinished(self, target: RemotePath) -> RemotePath:
        return target

    def publish(self, written: RemotePath, target: RemotePath) -> None:
        """Nothing: the list of checksums was written last."""

    def remove(self, checkpoint: RemotePath) -> None:
        (checkpoint / MANIFEST).unlink()
        checkpoint.remove_tree()

    def set_aside(self, checkpoint: RemotePath) -> str:
        (checkpoint / MANIFEST).rename(checkpoint / _DAMAGED_MANIFEST)
        return f"{checkpoint.name}/{_DAMAGED_MANIFEST}"

    def clear(self, target: RemotePath) -> None:
        if self._is_damaged(target):
            self.remove(target)

    def _is_damaged(self, checkpoint: RemotePath) -> bool:
        return (checkpoint / _DAMAGED_MANIFEST).is_file()


def folder_of(place: Place) -> CheckpointFolder[Any]:
    """The checkpoints in a folder of this machine or of a server."""
    return LocalFolder(place) if isinstance(place, Path) else RemoteFolder(place)
