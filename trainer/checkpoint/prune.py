"""Removal of checkpoints that a user no longer needs, which leaves the newest sound one in any case."""

from dataclasses import dataclass
from pathlib import Path

from foretrain.trainer.checkpoint.folders import DAMAGED, PARTIAL
from foretrain.trainer.checkpoint.inspect import Soundness, check, check_run, complete, leftovers, size_of
from foretrain.trainer.checkpoint.manifest import check_none_counts_as_partial
from foretrain.trainer.checkpoint.places import Place
from foretrain.trainer.checkpoint.record import CheckpointRecord
from foretrain.trainer.checkpoint.retention import Retention
from foretrain.trainer.run.folder import checkpoints_in, step_of
from foretrain.trainer.run.lock import locked


@dataclass(frozen=True)
class Pruned:
    """What was removed from a run, or would be."""

    sizes: dict[str, int]
    """Bytes of each folder that was removed, by its name, in the order of removal."""
    notes: list[str]
    """Sentences about checkpoints that are damaged, and about those that are kept for that reason."""


def prune(
    run_dir: Place,
    *,
    keep: int,
    every: int = 0,
    best: int = 0,
    with_damaged: bool = False,
    dry_run: bool = False,
    progress: bool = False,
) -> Pruned:
    """Remove the checkpoints of a run except the newest `keep` and those at multiples of `every` steps (0: none).

    The `best` with the least held-out loss are kept too, if their steps were evaluated, and so is the newest sound
    one. What an interrupted save has left is removed, and `with_damaged` also what was kept aside as damaged.
    `dry_run`: nothing is removed. `progress`: show on stderr how checkpoints are read.

    Raises ValueError if the run is alive, if a checkpoint on a server has no checksums, or if checkpoints would be
    removed and none is sound.
    """
    if keep < 1:
        raise ValueError(f"--keep {keep} must be at least 1")
    for name, value in (("every", every), ("best", best)):
        if value < 0:
            raise ValueError(f"--{name} {value} must not be negative")
    if not isinstance(run_dir, Path):
        raise ValueError(
            f"{run_dir} may be in use: give the folder of the run, the run_dir of its config, which says so"
        )
    check_run(run_dir)
    check_none_counts_as_partial(checkpoints_in(run_dir))
    with locked(run_dir):
        old, notes = _to_remove(run_dir, Retention(keep, every, best), progress)
        # Leftovers are first, so that the name which a checkpoint has while it is removed is free.
        folders = [*leftovers(run_dir, PARTIAL, *([DAMAGED] if with_damaged else [])), *old]
        sizes = {folder.name: _room_of(folder) for folder in folders}
        if not dry_run:
            for folder in folders:
                checkpoints_in(run_dir).remove(folder)
    return Pruned(sizes, notes)


def _room_of(folder: Place) -> int:
    """Bytes that the removal of a folder gives back."""
    return 0 if isinstance(folder, Path) and folder.is_symlink() else size_of(folder)


def _to_remove(run_dir: Path, retention: Retention, progress: bool) -> tuple[list[Place], list[str]]:
    """The checkpoints to remove, oldest first, and notes for the user."""
    paths = complete(run_dir)
    steps = retention.superseded([step_of(path) for path in paths], _losses(paths) if retention.best else {})
    old = [path for path in paths if step_of(path) in steps]
    if not old:
        return [], []
    notes: list[str] = []
    for path in _needed(paths, notes, progress):
        if path in old:
            old.remove(path)
            notes.append(f"{path.name} is kept too: no newer checkpoint is known to be sound")
    return old, notes


def _losses(paths: list[Place]) -> dict[int, float]:
    """The held-out losses that the records of checkpoints know, by step."""
    losses = {}
    for path in paths:
        try:
            loss = CheckpointRecord.read(path).val_loss
        except (ValueError, OSError):
            continue
        if loss is not None:
            losses[step_of(path)] = loss
    return losses


def _needed(paths: list[Place], notes: list[str], progress: bool) -> list[Place]:
    """The newest checkpoint that is sound, and the newest one without checksums if that is newer.

    Adds a note for each newer one that is damaged. Raises ValueError if all are damaged.
    """
    needed: dict[Soundness, Place] = {}
    for path in reversed(paths):
        verdict = check(path, progress=progress)
        if verdict.soundness is Soundness.DAMAGED:
            notes.append(str(verdict))
        else:
            needed.setdefault(verdict.soundness, path)
        if verdict.soundness is Soundness.SOUND:
            break
    if not needed:
        refusal = f"no checkpoint in {paths[0].parent} is sound, so none is removed: remove by hand those not needed"
        raise ValueError("\n".join([*notes, refusal]))
    return list(needed.values())
