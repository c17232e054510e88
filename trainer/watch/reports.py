"""What one rank reports of itself when a step is late: its collectives, its pipeline exchanges, its Python. Pure."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from foretrain.files import write_atomically
from foretrain.parallel.exchanges import Channel


@dataclass(frozen=True)
class Group:
    """A process group of this rank."""

    label: str
    """What the group is for, such as "tensor-parallel group"."""
    ranks: Sequence[int]
    """Its global ranks; none if they are not known."""


@dataclass(frozen=True)
class Collective:
    """A collective that this rank has entered."""

    group: str
    """The name of the process group, the same on all its ranks."""
    number: int
    """The first collective of a group has the number 1."""
    name: str
    """Such as "all_reduce"."""
    order: int
    """Collectives with a higher number were entered later, in whatever group."""
    is_complete: bool


@dataclass(frozen=True)
class RankReport:
    """Where a rank is."""

    rank: int
    host: str
    pid: int
    step: int
    """The step that it trains, or whose end it has reached."""
    phase: str
    elapsed_s: float
    """Seconds since the phase began."""
    is_late: bool
    """Whether the phase has taken longer than its limit."""
    waits_for_data: bool
    groups: Mapping[str, Group]
    """By their names."""
    collectives: Sequence[Collective]
    """The last one of each group, and all that are not complete, in the order in which they were entered."""
    channels: Sequence[Channel]
    stacks: Mapping[str, Sequence[str]]
    """Where each Python thread is, innermost call last, by the thread's name. The main thread comes first."""
    is_moving: bool = True
    """Whether the rank got further since its report before this one; True if this is its first one."""

    @property
    def position(self) -> dict[str, int]:
        """How far the rank is in each process group and each channel. In a run that hangs, it stays the same."""
        far = {each.group: each.number for each in self.collectives}  # the last one of a group remains
        return far | {" ".join(each.key): each.count for each in self.channels}

    def write(self, folder: Path) -> None:
        """Write the report into a folder, as a file that is complete or absent."""
        write_atomically(folder / file_name(self.rank), json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> Self:
        """The report in a file."""
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        fields["groups"] = {name: Group(**group) for name, group in fields["groups"].items()}
        fields["collectives"] = [Collective(**each) for each in fields["collectives"]]
        fields["channels"] = [Channel(**each) for each in fields["channels"]]
        return cls(**fields)


def file_name(rank: int) -> str:
    """The name of a rank's report in the folder of a hang."""
    return f"rank-{rank:05d}.json"


def fresh_reports(folder: Path, within_s: float) -> list[int]:
    """The ranks, in order, whose reports were written in the last `within_s` seconds before the newest one."""
    times: dict[int, float] = {}
    for path in folder.glob("rank-*.json"):
        with suppress(FileNotFoundError):  # its rank continues, and has removed it
            times[int(path.stem.removeprefix("rank-"))] = path.stat().st_mtime
    newest_s = max(times.values(), default=0.0)
    return sorted(rank for rank, at_s in times.items() if newest_s - at_s <= within_s)
