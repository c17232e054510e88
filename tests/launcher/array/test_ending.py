"""Whether a task is started again, and what its folder then says."""

from pathlib import Path

import pytest

from foretrain.launcher.array import ending
from foretrain.launcher.array.ending import record_end, status_of


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([0], 0),
        ([1], 1),
        ([93], 93),
        ([127], 127),
        ([85, 85, 85, 85, 0], 0),
        ([137, 143, 0], 0),
        ([137, 137, 137], 137),
        ([86, 86, 86], 86),
        ([137, 137, 85, 140, 137, 137], 137),
        ([137, 137, 1], 1),
        ([85, 137], None),
        ([137, 137], None),
    ],
)
def test_a_task_that_is_killed_is_started_again_a_few_times_in_a_row_and_one_that_asks_always(
    statuses: list[int], expected: int | None, tmp_path: Path
) -> None:
    again = [record_end(tmp_path, "a", "7", status, max_starts=3)[0] for status in statuses]
    assert again == [True] * (len(statuses) - 1) + [expected is None]
    assert status_of(tmp_path, "a") == expected


def test_a_later_job_is_not_blamed_for_the_starts_of_an_earlier_one(tmp_path: Path) -> None:
    assert [record_end(tmp_path, "a", job, 137, max_starts=2)[0] for job in ("7", "8", "8")] == [True, True, False]


def test_a_script_gets_the_decision_as_status_and_the_reason_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = [str(tmp_path), "a", "--job", "7", "--max-starts", "2", "--status"]
    assert [ending.main([*result, status]) for status in ("85", "137", "137", "3", "0")] == [0, 0, 1, 1, 1]
    assert capsys.readouterr().out.splitlines() == [
        "stopped when asked to: is started again",
        "was killed (status 137): is started again",
        "was killed 2 times in a row (status 137): raise launch.max_starts, or give it more memory or time",
        "failed with status 3: see above",
        "done",
    ]
    assert [path.name for path in (tmp_path / "ended").iterdir()] == ["a.json"]
