"""The text that a run leaves in its folder: the log of all its starts, and the layouts that computed its curve."""

import io
import logging
import re
import threading
import time
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from foretrain.configs.schema import Config, TrainConfig
from foretrain.trainer.callbacks.base import HeldOutLoss
from foretrain.trainer.goodput.facts import Fact
from foretrain.trainer.run.folder import RUN_LOG
from foretrain.trainer.run.summary import layouts_of
from foretrain.trainer.sinks import Reporter, RunLogSink, Session, Sink, TerminalSink
from tests.trainer.test_progress import train_metrics

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ  "


def report(sink: RunLogSink | TerminalSink, run_dir: Path, first: int, last: int) -> None:
    """Report a session of steps, with all that a session can have."""
    session = Session(Config(train=TrainConfig(log_every=2)), run_dir, first - 1, last, tokens_per_step=100)
    with Reporter([sink], session) as reporter:
        reporter.message("dp=2 tp=1 pp=1: 12,345 parameters in fp32 on 2 ranks (cpu)")
        for step in range(first, last + 1):
            reporter.step(train_metrics(step))
        reporter.evaluation(last, HeldOutLoss(2.5))
        reporter.event("replaced", last, {}, "a sample was \x1b[2Jreplaced: https://user:word@host/data")


def lines_of(run_dir: Path) -> list[str]:
    """The lines of a log without their times, each of which must have one."""
    lines = (run_dir / RUN_LOG).read_text(encoding="utf-8").splitlines()
    assert all(re.match(TIME, line) for line in lines)
    return [re.sub(TIME, "", line) for line in lines]


def test_the_log_has_the_lines_of_a_terminal_with_times_and_every_start_adds_to_it(tmp_path: Path) -> None:
    shown = io.StringIO()
    for first, last in ((1, 5), (4, 9)):  # the second start takes steps again
        report(RunLogSink(), tmp_path, first, last)
        report(TerminalSink(Console(file=shown, width=200)), tmp_path, first, last)
    assert lines_of(tmp_path) == shown.getvalue().splitlines()
    assert len(lines_of(tmp_path)) == 13
    assert "\x1b" not in shown.getvalue() and "word" not in shown.getvalue()


@pytest.mark.parametrize("has_handler", [False, True])
def test_warnings_are_kept_in_the_log_and_still_printed_once(
    has_handler: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = logging.StreamHandler()
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler] if has_handler else [])
    logger, before = logging.getLogger("foretrain.trainer"), list(logging.getLogger("foretrain").handlers)
    with Reporter([RunLogSink()], Session(Config(), tmp_path, 0, 1, tokens_per_step=1)):
        logger.warning("a disk is %s", "nearly full")
        logger.info("not of interest")
    logger.warning("after the end")
    assert lines_of(tmp_path) == ["warning: a disk is nearly full"]
    if not has_handler:
        assert capsys.readouterr().err == "a disk is nearly full\nafter the end\n"
    assert logging.getLogger("foretrain").handlers == before


def test_lines_of_the_log_that_have_no_room_are_written_later_and_the_warning_of_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = RunLogSink()
    with Path("/dev/full").open("ab", buffering=0) as full, Reporter([sink], Session(Config(), tmp_path, 0, 9, 1)):
        for number in range(6):
            with monkeypatch.context() as patch:
                if 2 <= number < 4:
                    patch.setattr(sink.lines, "file", full)
                sink.message(f"line {number}")
    kept = lines_of(tmp_path)
    assert [line for line in kept if line.startswith("line")] == [f"line {number}" for number in range(6)]
    (warning,) = [line for line in kept if not line.startswith("line")]
    assert "run.log cannot be written (No space left on device)" in warning


def test_the_layouts_of_a_curve_are_those_of_the_starts_that_computed_its_steps() -> None:
    def beginning(step: int | None, layout: str) -> Fact:
        return Fact("begin", 0.0, step=step, layout=layout)

    assert layouts_of([], "last") == [(0, "last")]
    assert layouts_of([beginning(0, ""), beginning(None, "a")], "last") == [(0, "last")]
    assert layouts_of([beginning(0, "a"), beginning(50, "a"), beginning(70, "b")], "last") == [(0, "a"), (70, "b")]
    # The third start continues from step 50, so nothing of what the second one did is in the curve.
    assert layouts_of([beginning(0, "a"), beginning(60, "b"), beginning(50, "c")], "last") == [(0, "a"), (50, "c")]
    assert layouts_of([beginning(0, "a"), beginning(60, "b"), beginning(60, "a")], "last") == [(0, "a")]


class FailingSink(Sink):
    """A sink that cannot be opened."""

    def open(self, session: Session) -> None:
        raise OSError(5, "Input/output error")


def test_sinks_that_are_open_are_closed_if_the_next_one_cannot_be_opened(tmp_path: Path) -> None:
    before = list(logging.getLogger("foretrain").handlers)
    sink = RunLogSink()
    with pytest.raises(OSError, match="Input/output error"):
        Reporter([sink, FailingSink()], Session(Config(), tmp_path, 0, 1, 1)).__enter__()
    assert logging.getLogger("foretrain").handlers == before
    assert sink.lines.file.closed


def test_lines_and_warnings_of_several_threads_are_in_the_log_once_each(tmp_path: Path) -> None:
    num_lines = 60
    with Reporter([sink := RunLogSink()], Session(Config(), tmp_path, 0, 1, 1)) as reporter:
        sink.lines.file = SlowFile(sink.lines.path)
        warn = [threading.Thread(target=warn_often, args=(name, num_lines)) for name in ("reader", "writer")]
        for thread in warn:
            thread.start()
        for number in range(num_lines):
            reporter.message(f"line {number}")
        for thread in warn:
            thread.join()
    expected = [f"{name} {n}" for name in ("line", "warning: reader", "warning: writer") for n in range(num_lines)]
    assert sorted(lines_of(tmp_path)) == sorted(expected)


def warn_often(name: str, num_lines: int) -> None:
    for number in range(num_lines):
        logging.getLogger("foretrain.trainer").warning("%s %d", name, number)


class SlowFile(FileIO):
    """A file to which threads write at the same time."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "ab")

    def write(self, data: Any) -> int:
        with memoryview(data) as bytes_that_stay:  # as the call of the operating system needs them
            time.sleep(0.0005)
            return super().write(bytes_that_stay)
