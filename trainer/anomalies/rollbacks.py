"""The rollbacks of a run, in `rollbacks.json` of its folder: which steps were taken back, and which samples left out.

The file is written before a run continues from the checkpoint: a run that dies before its next checkpoint leaves the
same samples out when it is started again.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from foretrain import limits
from foretrain.data_pipeline.stream.left_out import LeftOut
from foretrain.files import read_bounded, write_atomically
from foretrain.printable import printable
from foretrain.trainer.checkpoint.record import CheckpointRecord
from foretrain.trainer.run.folder import newest_checkpoint
from foretrain.typed_json import from_values

ROLLBACKS_FILE = "rollbacks.json"
_MAX_NUMBER = 1 << 62


@dataclass(frozen=True)
class Rollback:
    """A return to a checkpoint."""

    step: int
    """The step whose update was not made."""
    to_step: int
    """The step of the checkpoint."""
    first_sample: int
    """The first global sample that is left out."""
    end_sample: int
    """The global sample after the last one that is left out."""
    reason: str
    """What was not sound."""

    def __str__(self) -> str:
        reason = printable(self.reason)  # the run may be that of others
        return (
            f"step {self.step}: {reason}; back to the checkpoint of step {self.to_step}, without the samples "
            f"{self.first_sample} to {self.end_sample - 1}"
        )


def read_rollbacks(run_dir: Path) -> list[Rollback]:
    """The rollbacks of a run, oldest first. Raises ValueError, which names the file, if it is damaged."""
    path = run_dir / ROLLBACKS_FILE
    try:
        content = read_bounded(path, limits.ROLLBACKS_BYTES, lambda message: ValueError(f"{message}: repair it"))
    except FileNotFoundError:
        return []
    try:
        found = json.loads(content.decode())
        if not isinstance(found, list):
            raise ValueError(f"it is a {type(found).__name__}")
        return [_from_values(values) for values in found]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a list of rollbacks ({error}): repair it") from error


def _from_values(values: Any) -> Rollback:
    """A rollback in values of JSON. Raises ValueError if they are none."""
    if not isinstance(values, dict):
        raise ValueError(f"one of them is a {type(values).__name__}")
    found = from_values(Rollback, values)
    if not (0 <= found.to_step < found.step < _MAX_NUMBER and 0 <= found.first_sample < found.end_sample < _MAX_NUMBER):
        raise ValueError("the numbers of one of them cannot be")
    return found


def write_rollbacks(run_dir: Path, rollbacks: Sequence[Rollback]) -> None:
    """Replace the file, all or nothing."""
    text = json.dumps([asdict(each) for each in rollbacks], indent=1)
    write_atomically(run_dir / ROLLBACKS_FILE, text + "\n", durable=True)


def left_out_of_run(run_dir: Path) -> LeftOut:
    """The samples that a run leaves out, also those that the run from which it branched has left out."""
    newest = newest_checkpoint(run_dir)
    return left_out_by(read_rollbacks(run_dir), CheckpointRecord.read(newest).left_out if newest else ())


def left_out_by(rollbacks: Iterable[Rollback], others: Iterable[Sequence[int]] = ()) -> LeftOut:
    """The samples that rollbacks leave out, and those in other ranges, [start, end)."""
    return LeftOut.of([*((each.first_sample, each.end_sample) for each in rollbacks), *others])
