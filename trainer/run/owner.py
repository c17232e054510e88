"""Which run a folder of checkpoints belongs to, if `train.checkpoint_folder` names it: two runs must not share one."""

import json
import uuid
from pathlib import Path
from typing import Any

from foretrain.trainer.checkpoint.places import Place, write_file
from foretrain.trainer.run.folder import checkpoints_in

OWNER = "owner.json"
"""A file in the run folder and in the folder of the checkpoints: the id of the run, and its folder at that time."""


def check(run_dir: Path, folder: Place) -> None:
    """Raise ValueError, which says what to change, if a folder of checkpoints belongs to another run."""
    owner = _read(folder)
    if owner is not None and owner["id"] != (_read(run_dir) or {}).get("id"):
        raise ValueError(
            f"train.checkpoint_folder = {folder} belongs to the run in {owner['run_dir']}: set another "
            f"train.checkpoint_folder. If {run_dir} shall continue that run, and the run is gone, delete "
            f"{folder / OWNER}"
        )


def claim(run_dir: Path, folder: Place) -> None:
    """Make a folder of checkpoints that of a run. Raises ValueError if it belongs to another run."""
    check(run_dir, folder)
    own = _read(run_dir) or {"id": uuid.uuid4().hex, "run_dir": str(run_dir.absolute())}
    for place in (run_dir, folder):
        if _read(place) is None:
            place.mkdir(parents=True, exist_ok=True)
            write_file(place / OWNER, json.dumps(own, indent=1) + "\n")


def check_nothing_is_left_behind(run_dir: Path, folder: Place) -> None:
    """Raise ValueError if a run that finds no checkpoint in `folder` has one in the folder that it used before."""
    before = checkpoints_in(run_dir)
    if before.place.absolute() != folder.absolute() and (newest := before.newest()) is not None:
        raise ValueError(
            f"{run_dir} would start again at step 0: its newest checkpoint is {newest}, and {folder} has none. Copy "
            f"the checkpoints there, set train.checkpoint_folder back to {before.place}, or set another run_dir"
        )


def _read(folder: Place) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((folder / OWNER).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found
