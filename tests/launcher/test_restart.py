"""A run is started again as long as that brings it forward, and no longer."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain.launcher.restart import STARTS_FILE, Start, decide, main, newest_step, read_starts, record_start, stuck
from foretrain.trainer.goodput import facts
from foretrain.trainer.goodput.facts import Fact
from foretrain.trainer.run.folder import CHECKPOINTS, RECORD


def checkpoint(run_dir: Path, step: int) -> None:
    folder = run_dir / CHECKPOINTS / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / RECORD).touch()


@given(max_starts=st.integers(1, 6), gains=st.lists(st.integers(0, 1), max_size=40))
def test_a_job_gives_up_after_exactly_max_starts_consecutive_starts_without_progress(
    max_starts: int, gains: list[int]
) -> None:
    step, in_vain = 0, 0
    starts: list[Start] = []
    for gain in gains:
        assert (stuck(starts, "7", step, max_starts) is not None) == (in_vain >= max_starts)
        if in_vain >= max_starts:
            return
        starts.append(Start("7", step))
        step += gain
        in_vain = 0 if gain else in_vain + 1


def test_starts_of_an_earlier_job_do_not_count() -> None:
    assert stuck([Start("6", 0)] * 9, "7", 0, 1) is None
    assert stuck([Start("6", 0)] * 9 + [Start("7", 0)], "7", 0, 2) is None


def test_a_job_that_gives_up_says_where_it_is_stuck_and_what_to_look_at() -> None:
    words = stuck([Start("7", 1200)] * 3, "7", 1200, 3)
    assert words is not None
    assert "3 starts in a row did not get beyond step 1,200" in words
    assert "launch.stop_lead_s" in words
    assert "did not reach a first checkpoint" in (stuck([Start("7", 0)], "7", 0, 1) or "")


@pytest.mark.parametrize(
    ("status", "again", "words"),
    [
        (0, False, "done"),
        (85, True, "resumes from step 40"),
        (86, True, "hangs): resumes from step 40"),
        (93, False, "refused"),
        (137, True, "a rank was killed"),
        (143, True, "a rank was killed"),
        (1, False, "status 1"),
        (2, False, "status 2"),
    ],
)
def test_the_status_says_whether_to_start_again(status: int, again: bool, words: str, tmp_path: Path) -> None:
    checkpoint(tmp_path, 40)
    assert record_start(tmp_path, "7", 3) is None
    decided = decide(tmp_path, "7", 3, status)
    assert decided[0] == again
    assert words in decided[1]


@pytest.mark.parametrize(
    ("status", "again"), [(0, False), (1, False), (85, True), (86, True), (93, False), (137, True)]
)
def test_a_folder_of_checkpoints_that_cannot_be_read_now_ends_no_job(
    status: int, again: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint(tmp_path, 40)
    assert record_start(tmp_path, "7", 2) is None
    (tmp_path / CHECKPOINTS).rename(tmp_path / "moved")
    (tmp_path / CHECKPOINTS).symlink_to(CHECKPOINTS)  # a loop: to read it is an OSError
    decided = decide(tmp_path, "7", 1, status)
    assert decided[0] == again
    assert ("the newest checkpoint is not known" in decided[1]) == again
    assert record_start(tmp_path, "7", 2) is None
    assert [start.step for start in read_starts(tmp_path)] == [40, 40]
    assert "counts as one from step 40" in caplog.text
    assert "gives up" in (record_start(tmp_path, "7", 2) or "")


def test_a_job_that_is_stopped_before_its_first_checkpoint_starts_as_often_as_it_may(tmp_path: Path) -> None:
    for start in range(3):
        assert record_start(tmp_path, "7", 3) is None
        assert decide(tmp_path, "7", 3, 85)[0] == (start < 2)
    assert "gives up" in (record_start(tmp_path, "7", 3) or "")
    assert record_start(tmp_path, "8", 3) is None
    checkpoint(tmp_path, 1)
    assert record_start(tmp_path, "7", 3) is None


def test_partial_checkpoints_are_no_progress_and_the_newest_complete_one_is(tmp_path: Path) -> None:
    assert newest_step(tmp_path) == 0
    checkpoint(tmp_path, 5)
    checkpoint(tmp_path, 120)
    (tmp_path / CHECKPOINTS / "partial-step-00000300").mkdir()
    assert newest_step(tmp_path) == 120


def test_a_record_that_was_cut_short_loses_that_line_alone(tmp_path: Path) -> None:
    record_start(tmp_path, "7", 9)
    with (tmp_path / STARTS_FILE).open("a") as file:
        file.write('{"job": "7", "st')
    record_start(tmp_path, "7", 9)
    assert [(start.job, start.step) for start in read_starts(tmp_path)] == [("7", 0), ("7", 0)]


def test_a_start_is_a_fact_of_the_ledger_which_knows_whether_it_was_queued(tmp_path: Path) -> None:
    assert record_start(tmp_path, "local-7", 1) is None
    assert record_start(tmp_path, "local-7", 1) is not None, "a start that is refused is none"
    assert main(["record-start", str(tmp_path), "--job", "8", "--max-starts", "1"]) == 0
    at_s = [start.at_s for start in read_starts(tmp_path)]
    expected = [Fact("start", at_s[0], job="local-7"), Fact("start", at_s[1], job="8", queued=True)]
    assert facts.read(tmp_path) == expected


def test_a_batch_script_gets_its_answers_as_status_and_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [str(tmp_path), "--job", "7", "--max-starts", "1"]
    assert main(["record-start", *asked]) == 0
    assert main(["decide", *asked, "--status", "85"]) == 1
    assert "gives up" in capsys.readouterr().out
    assert main(["record-start", *asked]) == 1
    checkpoint(tmp_path, 3)
    assert main(["decide", *asked, "--status", "85"]) == 0
    assert capsys.readouterr().out.endswith("stopped when asked to: resumes from step 3\n")
