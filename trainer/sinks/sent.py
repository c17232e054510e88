"""What a tracker has of a run: a file in the run folder, by which a later start continues."""

import json
import logging
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from foretrain.files import read_bounded, write_atomically
from foretrain.limits import TRACKER_BYTES
from foretrain.trainer.sinks.follower import Point
from foretrain.typed_json import from_json

TRACKERS = "trackers"
"""Folder of these files in the run folder, one for each tracker."""
NOTHING = -1
"""The last step of a tracker that has none; step 0 may have an evaluation."""
VERSION = 1
logger = logging.getLogger(__name__)


@dataclass
class Sent:
    """The name by which a tracker knows the run, and the last step and evaluation that it has."""

    key: str
    train: int = NOTHING
    eval: int = NOTHING
    version: int = VERSION

    def lacks(self, point: Point) -> bool:
        """Whether the tracker does not have a point yet."""
        return point.step > int(getattr(self, point.kind))

    def add(self, points: Sequence[Point]) -> None:
        """The tracker has these points, too."""
        for point in points:
            setattr(self, point.kind, max(point.step, getattr(self, point.kind)))

    def go_back(self, step: int) -> None:
        """What the tracker has after a step is no longer what the run has, which begins there, or at 0, again."""
        after = step if step else NOTHING
        self.train, self.eval = min(self.train, after), min(self.eval, after)


def read_sent(path: Path) -> Sent:
    """What a file says, or a new name if there is no such file, or if it is damaged.

    Raises OSError if it cannot be read now: with a new name, a tracker would have two runs.
    """
    try:
        return from_json(Sent, read_bounded(path, TRACKER_BYTES, ValueError), VERSION)
    except FileNotFoundError:
        pass
    except ValueError as error:
        logger.warning("%s cannot be read (%s): the tracker gets the run as a new one", path, error)
    return Sent(secrets.token_hex(8))


def write_sent(path: Path, sent: Sent) -> None:
    """Write the file. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(asdict(sent)) + "\n")
