"""The report of a hang names the rank that is the cause, and the operation that it never entered."""

import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from foretrain.parallel.exchanges import NUM_KEPT, Channel, Exchanges, waiting
from foretrain.trainer.watch.analysis import find, hangs, listed
from foretrain.trainer.watch.reports import Collective, Group, RankReport, fresh_reports
from foretrain.trainer.watch.text import hang_text, slow_text

WORLD = 8
HOSTS = [f"node{rank // 4}" for rank in range(WORLD)]
GROUPS = {
    "0": [*range(WORLD)],
    **{f"tp{first}": [first, first + 1] for first in range(0, WORLD, 2)},
    **{f"dp{first}": [first, first + 2] for first in (0, 1, 4, 5)},
    **{f"pp{first}": [first, first + 4] for first in range(4)},
}
"""Process groups of tp=2 dp=2 pp=2, by name."""


def report(rank: int, collectives: Sequence[Collective] = (), channels: Sequence[Channel] = ()) -> RankReport:
    """The report of a rank that has not moved since the one before, and is late."""
    return RankReport(
        rank=rank,
        host=HOSTS[rank],
        pid=1000 + rank,
        step=12,
        phase="step",
        elapsed_s=63.0,
        is_late=True,
        waits_for_data=False,
        groups={name: Group(f"{name} group", ranks) for name, ranks in GROUPS.items() if rank in ranks},
        collectives=collectives,
        channels=channels,
        stacks={"MainThread": [f"train.py:7 in step: {'wait()' if collectives else 'sleep()'}"]},
        is_moving=False,
    )


def after(program: Sequence[str], stopped: int, at: int) -> dict[int, RankReport]:
    """The reports of all ranks that run collectives of these groups, one after the other, but of which one stops.

    It stops before the collective number `at` of the program. The others come as far as they can.
    """
    entered: list[list[int]] = [[] for _ in range(WORLD)]
    entrants: list[set[int]] = [set() for _ in program]
    has_moved = True
    while has_moved:
        has_moved = False
        for rank in range(WORLD):
            is_blocked = entered[rank] and entrants[entered[rank][-1]] != {*GROUPS[program[entered[rank][-1]]]}
            following = entered[rank][-1] + 1 if entered[rank] else 0
            mine = [place for place in range(following, len(program)) if rank in GROUPS[program[place]]]
            if is_blocked or not mine or (rank == stopped and mine[0] >= at):
                continue
            entered[rank].append(mine[0])
            entrants[mine[0]].add(rank)
            has_moved = True
    return {
        rank: report(
            rank,
            [
                Collective(
                    program[place],
                    program[: place + 1].count(program[place]),
                    "all_reduce",
                    place,
                    entrants[place] == {*GROUPS[program[place]]},
                )
                for place in entered[rank]
            ],
        )
        for rank in range(WORLD)
    }


@given(st.lists(st.sampled_from([*GROUPS]), min_size=1, max_size=30), st.data(), st.booleans())
def test_the_rank_that_stopped_and_the_collective_that_it_never_entered_are_named(
    program: list[str], data: st.DataObject, is_silent: bool
) -> None:
    at = data.draw(st.integers(0, len(program) - 1))
    stopped = data.draw(st.sampled_from(GROUPS[program[at]]))
    reports = after(program, stopped, at)
    if is_silent:
        del reports[stopped]
    finding = find(reports, WORLD)
    assert finding.causes == [stopped]
    assert hangs(finding, reports)
    number = program[: at + 1].count(program[at])
    named = {(wait.rank, wait.operation) for wait in finding.direct(stopped)}
    ranks = listed(GROUPS[program[at]])
    operation = f"all_reduce number {number} of the {program[at]} group (ranks {ranks})"
    assert {(rank, operation) for rank in GROUPS[program[at]] if rank != stopped} <= named
    text = hang_text(finding, reports, HOSTS)
    assert f"rank {stopped} on node{stopped // 4}" in text
    assert operation in text


@given(st.lists(st.sampled_from([*GROUPS]), max_size=30))
def test_ranks_that_have_all_entered_everything_are_no_cause(program: list[str]) -> None:
    reports = after(program, stopped=-1, at=0)
    finding = find(reports, WORLD)
    assert (finding.causes, finding.waits) == ([], [])


STAGES = "pipeline stage 0 (rank 1)", "stage 1 (rank 5)"


def ends(
    sent: Sequence[int],
    asked: Sequence[int],
    *,
    sender_awaits: int = 0,
    receiver_awaits: int = 0,
    host_waits: bool = True,
) -> tuple[list[Channel], list[Channel]]:
    """Both ends of the activations from stage 0 on rank 1 to stage 1 on rank 5, by micro-batches.

    The host of an end may wait for one of its exchanges; the first has the number 1.
    """
    sender, receiver = (Exchanges(host_waits=host_waits) for _ in range(2))
    sends = [sender.start("activations", *STAGES, each, peer=5, is_send=True) for each in sent]
    receives = [receiver.start("activations", *STAGES, each, peer=1, is_send=False) for each in asked]
    with waiting(sends[sender_awaits - 1 : sender_awaits]), waiting(receives[receiver_awaits - 1 : receiver_awaits]):
        return deepcopy(sender.channels), deepcopy(receiver.channels)


def exchange(microbatch: int) -> str:
    return f"the exchange of the activations of micro-batch {microbatch} from {STAGES[0]} to {STAGES[1]}"


def others(*ranks: int) -> dict[int, RankReport]:
    """Reports of the other ranks, which wait for nothing."""
    return {rank: report(rank) for rank in range(WORLD) if rank not in ranks}


def test_a_micro_batch_that_was_never_sent_is_named() -> None:
    sender, receiver = ends(sent=[0, 1], asked=[0, 1, 2, 3], receiver_awaits=3)
    for reports in (
        {1: report(1, channels=sender), 5: report(5, channels=receiver)},
        {5: report(5, channels=receiver)},
    ):
        finding = find(reports | others(1, 5), WORLD)
        assert finding.causes == [1]
        assert [(wait.rank, wait.operation) for wait in finding.direct(1)] == [(5, exchange(2))]


def test_a_micro_batch_that_nobody_asked_for_is_named() -> None:
    sender, receiver = ends(sent=[0, 1], asked=[0], sender_awaits=2)
    for reports in ({1: report(1, channels=sender), 5: report(5, channels=receiver)}, {1: report(1, channels=sender)}):
        finding = find(reports | others(1, 5), WORLD)
        assert finding.causes == [5]
        assert [(wait.rank, wait.operation) for wait in finding.direct(5)] == [(1, exchange(1))]


def test_exchanges_that_the_host_does_not_wait_for_are_not_named() -> None:
    sender, receiver = ends(sent=[0, 1, 2], asked=[0, 1])
    for reports in ({1: report(1, channels=sender)}, {5: report(5, channels=receiver)}):
        finding = find(reports | others(1, 5), WORLD)
        assert (len(finding.silent), finding.waits) == (1, [])


def test_on_a_gpu_whose_host_never_waits_the_first_micro_batch_that_is_missing_is_named() -> None:
    sender, receiver = ends(sent=[0], asked=[0, 1, 2], receiver_awaits=3, host_waits=False)
    finding = find({1: report(1, channels=sender), 5: report(5, channels=receiver)}, WORLD)
    assert [wait.operation for wait in finding.waits] == [exchange(1)]


def test_a_channel_remembers_the_micro_batches_of_its_last_exchanges() -> None:
    exchanges = Exchanges(host_waits=True)
    started = [exchanges.start("activations", *STAGES, number % 7, peer=5, is_send=True) for number in range(250)]
    (channel,) = exchanges.channels
    of = [re.findall(r"of micro-batch (\d)", channel.named(each.number)) for each in started]
    assert of == [[str(number % 7)] if number >= 250 - NUM_KEPT else [] for number in range(250)]
    shapes = exchanges.start("shapes of activations", *STAGES, peer=5, is_send=True)
    assert shapes.channel.named(1) == f"the exchange of the shapes of activations from {STAGES[0]} to {STAGES[1]}"


def stuck() -> dict[int, RankReport]:
    """A world in which rank 3 is alive and has entered no collective."""
    return after(["0"], stopped=3, at=0)


def test_a_run_in_which_any_rank_still_moves_does_not_hang() -> None:
    reports = stuck()
    reports[6] = replace(reports[6], is_moving=True)
    finding = find(reports, WORLD)
    assert not hangs(finding, reports)


def test_a_rank_that_waits_for_data_or_is_within_its_limit_is_no_hang_and_is_named() -> None:
    checkpoint = replace(report(3), phase="checkpoint", is_late=False)
    for excused, words in (
        (replace(report(3), waits_for_data=True), "its data"),
        (checkpoint, "the end of: checkpoint"),
    ):
        reports = stuck() | {3: excused}
        finding = find(reports, WORLD)
        assert not hangs(finding, reports)
        said = slow_text(finding, reports, HOSTS)
        assert f"The others wait for rank 3 on node0, and that one for {words}" in said


def test_ranks_that_wait_for_one_another_in_a_circle_hang_and_are_all_named() -> None:
    first = Collective("tp0", 1, "all_reduce", 0, is_complete=False)
    second = Collective("0", 1, "broadcast", 0, is_complete=False)
    others = {rank: report(rank, [second]) for rank in range(1, WORLD)}
    reports = {0: report(0, [first]), **others}
    finding = find(reports, WORLD)
    assert finding.causes == []
    assert hangs(finding, reports)
    text = hang_text(finding, reports, HOSTS)
    assert "Rank 0 waits in all_reduce number 1 of the tp0 group (ranks 0-1) for rank(s) 1" in text
    assert "Rank 1 waits in broadcast number 1 of the 0 group (ranks 0-7) for rank(s) 0" in text


def test_ranks_with_the_same_stack_are_shown_together() -> None:
    reports = stuck()
    text = hang_text(find(reports, WORLD), reports, HOSTS)
    assert "rank(s) 0-2, 4-7:\n    train.py:7 in step: wait()\n" in text
    assert "rank(s) 3:\n    train.py:7 in step: sleep()\n" in text


def test_a_report_that_was_written_reads_back_equal_and_is_found(tmp_path: Path) -> None:
    channels, _ = ends(sent=[0, 1], asked=[])
    written = report(1, [Collective("0", 3, "all_reduce", 17, is_complete=True)], channels)
    written.write(tmp_path)
    assert fresh_reports(tmp_path, within_s=5.0) == [1]
    assert RankReport.read(tmp_path / "rank-00001.json") == written


@given(st.sets(st.integers(0, 50)))
def test_listed_ranks_are_the_ranks(ranks: set[int]) -> None:
    found: set[int] = set()
    for part in filter(None, listed(ranks).split(", ")):
        first, _, last = part.partition("-")
        found |= {*range(int(first), int(last or first) + 1)}
    assert found == ranks
