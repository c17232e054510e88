"""One status of many: the cause counts, and not its victims."""

import pytest

from foretrain.launcher.ray.ending import LOST, End, decisive, exit_status


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([0, 0, 0], None),
        ([85, 85], 85),
        ([0, 85], 85),
        ([1, LOST, 1], LOST),  # the victims were seen first
        ([134, LOST], LOST),
        ([1, 143], 143),
        ([1, 86, 1], 86),  # the others lost a rank that has ended, since the run hung
        ([1, 134, 139], 1),  # peers of a rank that failed abort themselves
        ([134, 1], 134),
        ([3, 1], 3),
        ([85, 1], 1),
        ([LOST, 1, 93], 93),
        ([127, 85], 127),
    ],
)
def test_the_cause_decides(statuses: list[int], expected: int | None) -> None:
    end = decisive([End(rank, status) for rank, status in enumerate(statuses)])
    assert (end.status if end else None) == expected


@pytest.mark.parametrize(
    ("status", "asked", "expected"),
    [
        (0, False, 0),
        (0, True, 0),
        (93, False, 93),
        (93, True, 93),
        (85, True, 85),
        (143, True, 85),  # the signal came before the rank could save
        (LOST, True, 85),
        (1, True, 1),
        (85, False, 1),  # it came no further
        (LOST, False, 1),
        (7, False, 1),
    ],
)
def test_the_driver_says_what_to_do_next(status: int, asked: bool, expected: int) -> None:
    assert exit_status(status, asked) == expected
