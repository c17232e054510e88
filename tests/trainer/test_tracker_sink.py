"""What every tracker gets: the curve of metrics.jsonl, whatever fails, without a wait of the thread that trains."""

import errno
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from foretrain.configs.load import save
from foretrain.configs.schema import Config, TrainConfig
from foretrain.faults import is_passing
from foretrain.trainer.callbacks.base import HeldOutLoss
from foretrain.trainer.metrics import METRICS_FILE, read_metrics
from foretrain.trainer.run.folder import CONFIG_FILE
from foretrain.trainer.sinks import SINKS, JsonLinesSink, Reporter, Session, Sink, tracker
from foretrain.trainer.sinks.follower import Follower, Point
from foretrain.trainer.sinks.send import main
from foretrain.trainer.sinks.sent import Sent, read_sent, write_sent
from foretrain.trainer.sinks.tracker import TrackerSink
from tests.trainer.test_progress import train_metrics

DEADLINE_S = 60.0


class Server:
    """A tracker in memory, which can be away: what it has of each run, and in how many sessions."""

    def __init__(self) -> None:
        self.runs: dict[str, list[Point]] = {}
        self.is_away, self.num_refused = False, 0
        self.answers = threading.Event()
        self.answers.set()
        self.ends: list[bool] = []

    def losses(self) -> list[tuple[int, float]]:
        """The loss of each step that was sent last, of the one run that there is."""
        (points,) = self.runs.values()
        return sorted({each.step: each.values["train/loss"] for each in points if each.kind == "train"}.items())


class Connection:
    def __init__(self, server: Server, key: str) -> None:
        self._server, self._points = server, server.runs.setdefault(key, [])

    def send(self, points: Sequence[Point]) -> None:
        self._server.answers.wait()
        if self._server.is_away:
            self._server.num_refused += 1
            raise ConnectionError("the server https://me:word@host\nis away")
        self._points += points

    def close(self, is_complete: bool) -> None:
        self._server.ends.append(is_complete)


class MemorySink(TrackerSink):
    name = "memory"
    pause_s, retry_s, max_retry_s, close_s = 0.0, 0.01, 0.02, DEADLINE_S

    def __init__(self, server: Server) -> None:
        self._server = server

    def connect(self, session: Session, key: str) -> Connection:
        return Connection(self._server, key)


@contextmanager
def reporting(server: Server, run_dir: Path, start: int = 0, total: int = 100, **changes: Any) -> Iterator[Reporter]:
    sink = MemorySink(server)
    vars(sink).update(changes)
    with Reporter([JsonLinesSink(), sink], Session(Config(), run_dir, start, total, 100)) as report:
        yield report


def take(report: Reporter, first: int, last: int, loss: float = 1.0) -> None:
    for step in range(first, last + 1):
        report.step(train_metrics(step, loss=loss / step))


def wait_until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


def recorded(run_dir: Path) -> list[tuple[int, float]]:
    records = read_metrics(run_dir / METRICS_FILE)
    return [(record["step"], record["loss"]) for record in records if record["kind"] == "train"]


def test_every_step_and_evaluation_arrives_once_under_one_name_over_all_starts(tmp_path: Path) -> None:
    server = Server()
    with reporting(server, tmp_path) as report:
        report.evaluation(0, HeldOutLoss(3.0))
        take(report, 1, 500)
    with reporting(server, tmp_path, 500, 600) as report:
        take(report, 501, 600)
        report.evaluation(600, HeldOutLoss(2.0, {"web": math.inf}))
    (points,) = server.runs.values()
    assert [each.step for each in points if each.kind == "train"] == [*range(1, 601)]
    assert server.losses() == recorded(tmp_path)
    assert [(each.step, each.values) for each in points if each.kind == "eval"] == [
        (0, {"eval/val_loss": 3.0}),
        (600, {"eval/val_loss": 2.0, "eval/val_loss/web": math.inf}),
    ]
    assert server.ends == [True, True]


def test_a_server_that_is_away_is_reported_once_and_gets_all_when_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server()
    with reporting(server, tmp_path) as report:
        take(report, 1, 5)
        wait_until(lambda: [*server.runs.values()] and len(server.losses()) == 5)
        server.is_away = True
        take(report, 6, 400)
        wait_until(lambda: server.num_refused > 3)
        server.is_away = False
        take(report, 401, 402)
    assert server.losses() == recorded(tmp_path) and len(server.losses()) == 402
    assert caplog.messages == [
        "memory gets no metrics now (ConnectionError: the server https://me:***@host is away): the run continues, and "
        "what metrics.jsonl has is sent later",
        "memory gets metrics again, with those from before",
    ]


def test_steps_do_not_wait_for_a_server_that_does_not_answer_and_the_next_start_sends_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server()
    server.answers.clear()
    with reporting(server, tmp_path, close_s=0.01) as report:
        take(report, 1, 50)  # this thread is the one that would let the server answer
    assert "memory lacks the steps after 0" in caplog.text and f"sinks.send {tmp_path}" in caplog.text
    server.is_away = True
    server.answers.set()  # the thread of that start ends without success
    wait_until(lambda: server.num_refused)
    server.is_away = False
    with reporting(server, tmp_path, 50) as report:
        take(report, 51, 60)
    assert server.losses() == recorded(tmp_path) and len(server.losses()) == 60


def test_a_tracker_that_stores_only_at_its_end_gets_all_again_that_a_lost_connection_may_have_lost(
    tmp_path: Path,
) -> None:
    server = Server()
    with reporting(server, tmp_path, stores_at_once=False) as report:
        take(report, 1, 5)
        wait_until(lambda: [*server.runs.values()] and len(server.losses()) == 5)
        server.is_away = True
        take(report, 6, 6)
        wait_until(lambda: server.num_refused)
        (points,) = server.runs.values()
        points.clear()  # the connection had them, and nobody else
        server.is_away = False
        take(report, 7, 8)
    assert server.losses() == recorded(tmp_path) and len(server.losses()) == 8
    with reporting(server, tmp_path, 8, stores_at_once=False) as report:
        take(report, 9, 9)
    assert [each.step for each in points] == [*range(1, 10)], "what is stored is not sent again"


def test_a_server_that_is_away_at_the_end_is_tried_once_more_and_gets_all_at_the_next_start(tmp_path: Path) -> None:
    server = Server()
    server.is_away = True
    with reporting(server, tmp_path, retry_s=DEADLINE_S) as report:
        take(report, 1, 7)
    server.is_away = False
    with reporting(server, tmp_path, 7, 7):
        pass
    assert server.losses() == recorded(tmp_path) and len(server.losses()) == 7


@pytest.mark.parametrize("is_restart", [False, True])
@pytest.mark.parametrize("back_to", [0, 3, 9])
def test_a_run_that_goes_back_ends_with_the_curve_of_its_record(back_to: int, is_restart: bool, tmp_path: Path) -> None:
    server = Server()
    with reporting(server, tmp_path) as report:
        take(report, 1, 10)
        report.evaluation(10, HeldOutLoss(3.0))
        if not is_restart:
            wait_until(lambda: [*server.runs.values()] and len(server.losses()) == 10)
            report.rewind(back_to)
            take(report, back_to + 1, 12, loss=2.0)
    if is_restart:
        with reporting(server, tmp_path, back_to) as report:
            take(report, back_to + 1, 12, loss=2.0)
    assert server.losses() == recorded(tmp_path)
    assert server.losses() == [(step, (1.0 if step <= back_to else 2.0) / step) for step in range(1, 13)]


def test_a_line_that_is_written_in_parts_is_read_once_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / METRICS_FILE
    follower = Follower(path)
    assert [*follower.read()] == []
    path.write_text('{"kind": "train", "step": 1, "loss": "nan", "skipped": true}\n{"kind": "train", "st')
    (first,) = follower.read()
    assert (first.step, [*first.values]) == (1, ["train/loss"]) and math.isnan(first.values["train/loss"])
    assert [*follower.read()] == []
    with path.open("a") as file:
        file.write('ep": 2, "loss": 0.5}\nno record\n{"kind": "spike", "step": 2, "loss": 1.0}\n')
    assert [(each.step, each.values) for each in follower.read()] == [(2, {"train/loss": 0.5})]


@pytest.mark.parametrize("content", [b"{}", b"\xff", b'{"key": 3}', b'{"key": "a", "train": true}', b"[" * 10**6])
def test_a_damaged_file_of_what_is_sent_is_reported_and_all_is_sent_under_a_new_name(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server()
    with reporting(server, tmp_path) as report:
        take(report, 1, 3)
    (tmp_path / "trackers" / "memory.json").write_bytes(content)
    server.runs.clear()
    with reporting(server, tmp_path, 3) as report:
        take(report, 4, 4)
    assert [step for step, _ in server.losses()] == [1, 2, 3, 4]
    assert "memory.json cannot be read" in caplog.text


def test_a_run_that_is_complete_is_sent_without_a_start_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server()
    server.is_away = True
    monkeypatch.setattr(SINKS, "get", {"terminal": Sink, "memory": lambda: MemorySink(server)}.__getitem__)
    with reporting(server, tmp_path, total=3) as report:
        take(report, 1, 3)
    save(Config(train=TrainConfig(sinks=["terminal", "memory"])), tmp_path / CONFIG_FILE)
    assert main([str(tmp_path)]) == 1
    server.is_away = False
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"memory has all steps of {tmp_path}\n"
    assert server.losses() == recorded(tmp_path) and len(server.losses()) == 3
    assert main([str(tmp_path / "absent")]) == 2
    assert "absent" in capsys.readouterr().err


def test_a_fault_of_the_file_with_the_name_of_a_run_does_not_make_it_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x.json"
    write_sent(path, Sent("abc", train=7))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", failing_open)
        with pytest.raises(OSError, match="Input/output error") as raised:
            read_sent(path)
    assert is_passing(raised.value), "so that the start is tried again"
    assert read_sent(path) == Sent("abc", train=7)
    path.write_text("{")
    assert read_sent(path).key != "abc"
    assert "the tracker gets the run as a new one" in caplog.text


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.ESTALE])
@pytest.mark.parametrize("num_written", [0, 1])
def test_a_run_whose_state_of_what_is_sent_cannot_be_written_is_one_run_with_all_steps_at_its_next_start(
    num_written: int, error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, num_calls = Server(), 0

    def failing_write(path: Path, sent: Sent) -> None:
        nonlocal num_calls
        num_calls += 1
        if num_calls > num_written:
            raise OSError(error, os.strerror(error))
        write_sent(path, sent)

    with monkeypatch.context() as patch:
        patch.setattr(tracker, "write_sent", failing_write)
        with reporting(server, tmp_path) as report:
            take(report, 1, 5)
    assert num_calls > num_written and len(recorded(tmp_path)) == 5
    assert len(server.runs) == num_written, "a name that is not on the disk is not sent"
    with reporting(server, tmp_path, 5, 6) as report:
        take(report, 6, 6)
    assert server.losses() == recorded(tmp_path) and len(server.losses()) == 6


def failing_open(path: Path, *arguments: Any, **options: Any) -> Any:
    """Fail as on a server that is away."""
    raise OSError(errno.EIO, os.strerror(errno.EIO))
