"""Which ranks a hanging run waits for, and in which operation, from the reports of its ranks. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from foretrain.parallel.exchanges import Channel
from foretrain.trainer.watch.reports import RankReport


@dataclass(frozen=True)
class Wait:
    """A rank that waits in an operation for others."""

    rank: int
    missing: frozenset[int]
    """The ranks that have not entered the operation, as far as is known; every silent rank counts as one."""
    operation: str
    """In words, such as "all_reduce number 57 of the tensor-parallel group (ranks 2, 3)"."""


@dataclass(frozen=True)
class Finding:
    """Why a run hangs."""

    silent: Sequence[int]
    """Ranks that wrote no report."""
    idle: Sequence[int]
    """Ranks that others wait for, and that wait in no operation themselves."""
    waits: Sequence[Wait]
    """What ranks wait in; those of one rank in their order."""

    @property
    def causes(self) -> Sequence[int]:
        """The ranks that the others wait for, directly or not; none if they wait for one another in a circle."""
        return sorted({*self.silent, *self.idle})

    def direct(self, cause: int) -> list[Wait]:
        """The waits for a cause, and for causes alone, not for ranks that wait."""
        return [wait for wait in self.waits if cause in wait.missing and wait.missing <= {*self.causes}]


def find(reports: Mapping[int, RankReport], world_size: int) -> Finding:
    """What the reports, by rank, show. A rank without a report is silent."""
    silent = [rank for rank in range(world_size) if rank not in reports]
    waits: list[Wait] = []
    for report in reports.values():
        own = [*_collective_waits(report, reports), *_exchange_waits(report, reports)]
        waits += own or [*_send_waits(report, reports)]
    waiting = {wait.rank for wait in waits}
    awaited = {rank for wait in waits for rank in wait.missing}
    return Finding(silent, sorted(awaited - waiting - {*silent}), waits)


def hangs(finding: Finding, reports: Mapping[int, RankReport]) -> bool:
    """Whether a run that is late will never continue by itself.

    It may continue as long as any rank gets further, or if the ranks that the others wait for wait for data, or do
    something that may take longer than a step, such as a checkpoint.
    """
    if any(report.is_moving for report in reports.values()) or not any(report.is_late for report in reports.values()):
        return False
    if finding.silent:
        return True
    suspects = finding.idle or [*reports]
    return any(reports[rank].is_late and not reports[rank].waits_for_data for rank in suspects)


def _collective_waits(report: RankReport, reports: Mapping[int, RankReport]) -> Iterator[Wait]:
    """The collectives that a rank has entered and that are not complete, in its order."""
    for collective in report.collectives:
        if collective.is_complete:
            continue
        group = report.groups[collective.group]
        missing = {
            rank
            for rank in group.ranks
            if rank not in reports or _entered(reports[rank], collective.group) < collective.number
        }
        where = f"{group.label} (ranks {listed(group.ranks)})" if group.ranks else group.label
        yield Wait(report.rank, frozenset(missing), f"{collective.name} number {collective.number} of the {where}")


def _entered(report: RankReport, group: str) -> int:
    """The number of the last collective of a group that a rank has entered; 0 if there is none."""
    return max((each.number for each in report.collectives if each.group == group), default=0)


def _exchange_waits(report: RankReport, reports: Mapping[int, RankReport]) -> Iterator[Wait]:
    """The exchanges whose end a rank waits for; on a GPU, whose host never waits, what it has asked for in vain."""
    for channel in report.channels:
        if channel.awaited:
            has_entered = _other_count(channel, reports) >= channel.awaited
            missing = frozenset() if has_entered else frozenset({channel.peer})
            yield Wait(report.rank, missing, channel.named(channel.awaited))
        elif channel.awaited is None and not channel.is_send:
            yield from _behind(channel, report, reports)


def _send_waits(report: RankReport, reports: Mapping[int, RankReport]) -> Iterator[Wait]:
    """On a GPU, what a rank has sent and the other one has not asked for."""
    for channel in report.channels:
        if channel.awaited is None and channel.is_send:
            yield from _behind(channel, report, reports)


def _behind(channel: Channel, report: RankReport, reports: Mapping[int, RankReport]) -> Iterator[Wait]:
    """The first exchange that the other end has not started, if this one has. It is not known of a silent rank."""
    if channel.peer in reports:
        number = _other_count(channel, reports) + 1
        if channel.count >= number:
            yield Wait(report.rank, frozenset({channel.peer}), channel.named(number))


def _other_count(channel: Channel, reports: Mapping[int, RankReport]) -> int:
    """The exchanges of a channel that the rank at its other end has started, as far as is known."""
    channels = reports[channel.peer].channels if channel.peer in reports else []
    return next((each.count for each in channels if each.key == channel.key), 0)


def listed(ranks: Iterable[int]) -> str:
    """Numbers in words, "0-3, 6"."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
