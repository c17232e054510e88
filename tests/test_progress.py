"""The progress of long jobs: a bar on a terminal, lines in a log."""

import io

import pytest
from rich.console import Console

from foretrain.progress import JobProgress, byte_progress, format_duration
from foretrain.scaling.console import StudyProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown_on(file: io.StringIO) -> str:
    console = Console(file=file, width=120, force_terminal=file.isatty(), force_interactive=file.isatty())
    with StudyProgress(["small", "large"], len, console) as progress:
        for model in ("small", "large"):
            progress.start(model)
            progress.end(model, "measured", 1.0)
        progress.say("a message")
    return file.getvalue()


def test_a_log_gets_a_line_for_each_model() -> None:
    lines = shown_on(io.StringIO()).splitlines()
    assert lines[0] == "1/2  small: measured, 1.0 s, about 0:00:00 left"
    assert lines[1:] == ["2/2  large: measured, 1.0 s, none left", "a message"]


def test_a_terminal_gets_a_bar_and_messages_instead() -> None:
    shown = shown_on(Terminal())
    assert "\u2501" in shown and "2/2" in shown and "a message" in shown
    assert "measured" not in shown


def test_a_file_gets_no_bar_although_colors_are_forced() -> None:
    file = io.StringIO()
    with JobProgress(1, console=Console(file=file, force_terminal=True)) as progress:
        progress.advance(1)
    assert file.getvalue() == ""


def test_work_that_took_no_time_says_nothing_about_the_speed() -> None:
    progress = JobProgress(100, console=Console(file=io.StringIO()))
    progress.skip(90)
    assert progress.time_left() == "time left unknown"
    progress.advance(10)
    assert progress.time_left() == "none left"


def test_a_pass_over_bytes_ends_with_a_line_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    for enabled in (True, False):
        with byte_progress("reading", 3_000_000, enabled=enabled) as advance:
            advance(1_000_000)
            advance(2_000_000)
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1
    assert captured.err.startswith("reading: 3.0 of 3.0 MB, ")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (59.6, "0:01:00"), (3725, "1:02:05"), (360000, "100:00:00")]
)
def test_durations_are_hours_minutes_seconds(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
