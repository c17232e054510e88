"""The report of a hang in words. Pure."""

from collections.abc import Iterator, Mapping, Sequence

from foretrain.trainer.watch.analysis import Finding, listed
from foretrain.trainer.watch.reports import RankReport

_NUM_FRAMES = 12
"""Innermost calls of each stack that are shown; the files of the ranks have all of them."""
_NUM_OPERATIONS = 5
"""Operations that are shown of a cause: the last ones, since the host of a rank waits in the last that it entered."""


def hang_text(finding: Finding, reports: Mapping[int, RankReport], hosts: Sequence[str]) -> str:
    """The report: the causes, what was never entered, and where the Python of every rank is. `hosts`: of all ranks."""
    first = next(iter(reports.values()))
    lines = [f"step {first.step} hangs: the {first.phase} has taken {first.elapsed_s:.0f} s"]
    for rank in finding.causes:
        lines += _cause(rank, finding, reports, hosts)
    if not finding.causes:
        lines += ["No rank is the cause alone. They wait for one another, or for the network:", *_waits(finding)]
    lines += ["Where the Python of the ranks is:", *_where(reports)]
    return "\n".join(lines) + "\n"


def slow_text(finding: Finding, reports: Mapping[int, RankReport], hosts: Sequence[str]) -> str:
    """What is said of a step that is late, and that the run does not end for."""
    first = next(iter(reports.values()))
    text = f"step {first.step} is slow: the {first.phase} has taken {first.elapsed_s:.0f} s. "
    if not finding.idle:
        return f"{text}The run continues\n"
    rank = finding.idle[0]
    does = "its data" if reports[rank].waits_for_data else f"the end of: {reports[rank].phase}"
    return f"{text}The others wait for rank {rank} on {hosts[rank]}, and that one for {does}. The run continues\n"


def unreported_text(report: RankReport, error: OSError) -> str:
    """What a late rank says of itself if it cannot write its report."""
    lines = [
        f"step {report.step} is slow: the {report.phase} has taken {report.elapsed_s:.0f} s. The report of rank "
        f"{report.rank} on {report.host} cannot be written: {error}. Without reports, a run that hangs ends only "
        "after parallel.timeout_s",
        *_where({report.rank: report}),
    ]
    return "\n".join(lines) + "\n"


def _ranks(numbers: str) -> str:
    return f"rank {numbers} waits" if numbers.isdigit() else f"ranks {numbers} wait"


def _cause(rank: int, finding: Finding, reports: Mapping[int, RankReport], hosts: Sequence[str]) -> Iterator[str]:
    where = f"rank {rank} on {hosts[rank]}"
    if rank in finding.silent:
        yield (
            f"{where} gives no sign of life: it is stopped, its machine or its file system is gone, or a function "
            "outside Python holds its lock"
        )
    else:
        yield f"{where} (process {reports[rank].pid}) is alive, and waits for no other rank"
    waiting: dict[str, list[int]] = {}
    for wait in finding.direct(rank):
        waiting.setdefault(wait.operation, []).append(wait.rank)
    never = "never entered, or did not finish," if rank in finding.silent else "never entered"
    for operation, ranks in [*waiting.items()][-_NUM_OPERATIONS:]:
        yield f"  It {never} {operation}: {_ranks(listed(ranks))} in it"


def _waits(finding: Finding) -> Iterator[str]:
    for wait in finding.waits:
        on = f"rank(s) {listed(wait.missing)}" if wait.missing else "no rank: all have entered it"
        yield f"  Rank {wait.rank} waits in {wait.operation} for {on}"


def _where(reports: Mapping[int, RankReport]) -> Iterator[str]:
    """The main thread of each rank; ranks whose stacks are the same are shown together."""
    alike: dict[tuple[str, ...], list[int]] = {}
    for rank, report in reports.items():
        main = next(iter(report.stacks.values()), [])
        alike.setdefault(tuple(main), []).append(rank)
    for stack, ranks in alike.items():
        yield f"  rank(s) {listed(ranks)}:"
        yield from (f"    {call}" for call in stack[-_NUM_FRAMES:])
