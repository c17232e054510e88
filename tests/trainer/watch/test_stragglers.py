"""A slow rank is named, once, and no other."""

from hypothesis import given
from hypothesis import strategies as st

from foretrain.trainer.watch.stragglers import LEAST_S, MARGIN, NUM_WINDOWS, Straggler, Stragglers

NOISE = st.floats(1.0, 1.07)
SIZES = st.integers(2, 16)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[list[int]], list[float]]:
    """Peers, of one to three pipeline ranks with different work, and a usual time of each rank, with noise."""
    num_stages, size = draw(st.integers(1, 3)), draw(SIZES)
    peers = [[rank * num_stages + stage for rank in range(size)] for stage in range(num_stages)]
    work_s = [0.0] * (num_stages * size)
    for stage, ranks in enumerate(peers):
        for rank in ranks:
            work_s[rank] = (1 + 3 * stage) * draw(NOISE)
    return peers, work_s


@given(worlds(), st.integers(1, 10))
def test_ranks_that_differ_by_noise_are_never_named(
    world: tuple[list[list[int]], list[float]], num_windows: int
) -> None:
    peers, work_s = world
    stragglers = Stragglers(peers)
    assert [stragglers.judge(work_s) for _ in range(num_windows)] == [[]] * num_windows


@given(worlds(), st.data())
def test_one_rank_that_is_slowed_by_30_percent_is_named_and_no_other(
    world: tuple[list[list[int]], list[float]], data: st.DataObject
) -> None:
    peers, work_s = world
    slow = data.draw(st.integers(0, len(work_s) - 1))
    work_s[slow] *= 1.3
    stragglers = Stragglers(peers)
    named = [[each.rank for each in stragglers.judge(work_s)] for _ in range(10)]
    assert named == [[]] * (NUM_WINDOWS - 1) + [[slow]] + [[]] * (10 - NUM_WINDOWS)


def test_a_rank_that_recovers_and_slows_down_again_is_named_again() -> None:
    stragglers = Stragglers([[0, 1, 2]])
    sound, slow = [1.0, 1.0, 1.0], [1.0, 1.0, 1.5]
    enough = [slow] * NUM_WINDOWS
    windows = [*enough, slow, sound, *enough[1:], sound, *enough]
    named = [number for number, work_s in enumerate(windows, 1) if stragglers.judge(work_s) == [Straggler(2, 1.5)]]
    assert named == [NUM_WINDOWS, len(windows)]


def test_what_a_slow_rank_costs_each_step_is_known_from_when_it_is_named_until_it_recovers() -> None:
    stragglers = Stragglers([[0, 1, 2], [3, 4, 5]])
    sound, slow = [1.0, 1.0, 1.0, 2.0, 2.0, 2.0], [1.0, 1.0, 1.5, 2.0, 3.0, 2.0]
    costs = []
    for work_s in (*[slow] * (NUM_WINDOWS + 1), sound):
        stragglers.judge(work_s)
        costs.append((stragglers.cost_s(10.0), stragglers.cost_s(1.5)))
    assert costs == [*[(0.0, 0.0)] * (NUM_WINDOWS - 1), *[(1.0, 1.5 * (1 - 2 / 3))] * 2, (0.0, 0.0)]


def test_a_difference_of_less_than_milliseconds_is_noise() -> None:
    stragglers = Stragglers([[0, 1]])
    usual_s = LEAST_S / 2
    assert not any(stragglers.judge([usual_s, usual_s + 0.9 * LEAST_S]) for _ in range(5))
    assert MARGIN * usual_s < 0.9 * LEAST_S


def test_a_rank_without_peers_is_not_judged() -> None:
    assert not any(Stragglers([[0], [1]]).judge([1.0, 9.0]) for _ in range(5))
