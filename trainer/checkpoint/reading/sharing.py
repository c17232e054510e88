"""Which rank of a machine reads which blocks of a checkpoint's files, and which others get them. Pure arithmetic."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

RUN_BLOCKS = 8
"""Most blocks that are read by one request, and are in memory at once for each rank that reads."""

Range = tuple[int, int]
"""Numbers of neighbouring blocks of a file: the first one, and the one after the last."""


@dataclass(frozen=True)
class Run:
    """Neighbouring blocks of one file, all of which the same ranks need. Ranks are places among those of a machine."""

    file: str
    first: int
    """The first block."""
    stop: int
    """The block after the last one."""
    reader: int
    """The rank that reads them."""
    receivers: tuple[int, ...]
    """The other ranks that need them."""


def ranges_of(blocks: Iterable[int]) -> list[Range]:
    """The fewest ranges that hold these blocks."""
    found: list[Range] = []
    for block in sorted(blocks):
        if found and found[-1][1] == block:
            found[-1] = found[-1][0], block + 1
        else:
            found.append((block, block + 1))
    return found


def plan_runs(needs: Sequence[Mapping[str, Sequence[Range]]]) -> list[Run]:
    """Runs that hold every block that a rank needs once, each read by one of those that need it.

    `needs`: what each rank needs of each file. What several need is divided evenly among them.
    """
    num_blocks, runs = [0] * len(needs), []
    for file in sorted({file for need in needs for file in need}):
        for first, stop, members in _segments([need.get(file, ()) for need in needs]):
            for start in range(first, stop, RUN_BLOCKS):
                end = min(start + RUN_BLOCKS, stop)
                reader = min(members, key=lambda member: (num_blocks[member], member))
                if len(members) > 1:
                    num_blocks[reader] += end - start
                runs.append(Run(file, start, end, reader, tuple(each for each in members if each != reader)))
    return runs


def rounds_of(runs: Iterable[Run]) -> Iterator[list[Run]]:
    """The runs with receivers, in rounds, in each of which a rank reads at most one."""
    current: list[Run] = []
    for run in runs:
        if not run.receivers:
            continue
        if any(run.reader == each.reader for each in current):
            yield current
            current = []
        current.append(run)
    if current:
        yield current


def _segments(ranges: Sequence[Sequence[Range]]) -> Iterator[tuple[int, int, list[int]]]:
    """Ranges of blocks that the same ranks need, and these ranks."""
    changes: dict[int, list[int]] = defaultdict(list)
    for member, of_member in enumerate(ranges):
        for each in of_member:
            for end in each:
                changes[end].append(member)
    members: set[int] = set()
    ends = sorted(changes)
    for first, stop in pairwise(ends):
        for member in changes[first]:
            members ^= {member}
        if members:
            yield first, stop, sorted(members)
