"""A run whose disk is full for some steps survives, says so in one line, and loses no line of its metrics."""

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from foretrain.configs.schema import Config
from foretrain.launcher.local.run import RankError
from foretrain.trainer.metrics import METRICS_FILE, read_metrics
from foretrain.trainer.run.setup import prepare_run
from foretrain.trainer.sinks import JsonLinesSink, Session, Sink, TensorBoardSink
from tests.conftest import RunOnRanks
from tests.required import not_here
from tests.trainer.full_disk import fill, train_on_a_full_disk
from tests.trainer.test_resume import curve
from tests.trainer.test_saving import config, saved_steps

NUM_STEPS = 40
FIRST, LAST = 11, 30
"""The steps in which the disk is full: their lines need more than the rest of a page, which a file has already."""
DISK_MIB = 4


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory, of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "none", str(folder))
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        not_here("a small disk cannot be mounted: run the tests as root, in a container that may mount a tmpfs")
    yield folder
    subprocess.run(("umount", "--lazy", str(folder)), check=True)


@pytest.mark.parametrize("in_background", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_run_survives_a_disk_that_is_full_for_some_steps_and_has_all_its_metrics(
    in_background: bool, disk: Path, tmp_path: Path, corpus: Path, ranks: RunOnRanks, capfd: pytest.CaptureFixture[str]
) -> None:
    saves = {"checkpoint_every": 1, "checkpoint_in_background": in_background, "log_every": 1}
    settings = config(disk / "run", corpus, 2, **saves)
    settings.train.keep_checkpoints, settings.train.num_tokens = 2, NUM_STEPS * 4 * 32
    ranks(2, train_on_a_full_disk, prepare_run(settings), disk, FIRST, LAST)
    said = capfd.readouterr()
    calm = config(tmp_path / "calm", corpus, 2, **saves)
    calm.train.num_tokens = settings.train.num_tokens
    ranks(2, train_on_a_full_disk, prepare_run(calm), tmp_path, 0, -1)

    assert [each for each in curve(disk / "run") if each["kind"] == "train"] == curve(tmp_path / "calm")
    records = read_metrics(disk / "run" / METRICS_FILE)
    failed = [record for record in records if record["kind"] == "checkpoint_failed"]
    assert all("No space left on device" in record["error"] for record in failed)
    if not in_background:  # else a step may still wait for the checkpoint before, or for the room that it has left
        assert [record["step"] for record in failed] == [*range(FIRST, LAST + 1)]
    assert len(failed) >= LAST - FIRST and saved_steps(disk / "run")[-1] == NUM_STEPS
    assert "Traceback" not in said.err
    files = re.findall(r"(\S+) cannot be written \(No space left on device\)", said.err)
    names = sorted(Path(file).name for file in files)
    assert {"metrics.jsonl"} <= {*names} <= {"metrics.jsonl", "run.log", "tensorboard"}
    assert len(names) == len({*names}), "a line for each file"


SomeSink = TypeVar("SomeSink", bound=Sink)


def open_on(sink: SomeSink, disk: Path) -> SomeSink:
    """A sink that receives the report of a run on a disk."""
    sink.open(Session(Config(), disk, 0, 1000, 1))
    return sink


def test_lines_of_metrics_that_have_no_room_are_written_later_and_warned_of_once(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = open_on(JsonLinesSink(), disk)
    for step in range(1, 301):
        if step == 101:
            fill(disk)
        if step == 201:
            (disk / "ballast").unlink()
        sink.step({"step": step, "loss": 1.0 / step})
        if step == 200:
            assert len(read_metrics(disk / METRICS_FILE)) < 200
    sink.close()
    assert [(record["step"], record["loss"]) for record in read_metrics(disk / METRICS_FILE)] == [
        (step, 1.0 / step) for step in range(1, 301)
    ]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cannot be written (No space left on device): its lines are kept in memory" in caplog.text


def test_lines_that_a_full_device_refuses_are_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As above, also where no small disk may be mounted: /dev/full has no room for anyone."""
    sink = JsonLinesSink()
    open_on(sink, tmp_path)
    with Path("/dev/full").open("ab", buffering=0) as full:
        for step in range(1, 21):
            with monkeypatch.context() as patch:
                if 6 <= step <= 15:
                    patch.setattr(sink.lines, "file", full)
                sink.step({"step": step, "loss": 1.0 / step})
    sink.close()
    assert [record["step"] for record in read_metrics(tmp_path / METRICS_FILE)] == [*range(1, 21)]
    assert caplog.text.count("cannot be written (No space left on device)") == 1


def test_lines_of_metrics_that_are_lost_at_the_end_are_counted(disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    sink = open_on(JsonLinesSink(), disk)
    fill(disk)
    for step in range(1, 301):
        sink.step({"step": step, "loss": 1.0 / step})
    sink.close()
    complete = (disk / METRICS_FILE).read_bytes().count(b"\n")
    assert f"lacks its last lines ({300 - complete})" in caplog.text


@pytest.mark.parametrize("to_step", [0, 60, 150])
@pytest.mark.parametrize("is_full", [True, False])
def test_a_run_that_goes_back_while_lines_have_no_room_keeps_a_file_that_can_be_read(
    to_step: int, is_full: bool, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = open_on(JsonLinesSink(), disk)
    for step in range(1, 201):
        if step == 101:
            fill(disk)
        sink.step({"step": step, "loss": 1.0 / step})
    if not is_full:  # there is room only once the lines cannot be written out before
        monkeypatch.setattr(sink.lines, "write_out", lambda: None)
        (disk / "ballast").unlink()
    if is_full and to_step:
        with pytest.raises(OSError, match="No space left"):
            sink.rewind(to_step)
        (disk / "ballast").unlink()
        to_step = 200  # nothing was taken back
    else:
        sink.rewind(to_step)
        (disk / "ballast").unlink(missing_ok=True)
    monkeypatch.undo()
    for step in range(to_step + 1, 251):
        sink.step({"step": step, "loss": 2.0 / step})
    sink.close()
    expected = [(step, (1.0 if step <= to_step else 2.0) / step) for step in range(1, 251)]
    assert [(record["step"], record["loss"]) for record in read_metrics(disk / METRICS_FILE)] == expected


def test_steps_that_a_killed_run_could_not_write_are_reported_when_it_resumes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [json.dumps({"kind": "train", "step": step, "loss": 1.0}) for step in range(1, 14)]
    (tmp_path / METRICS_FILE).write_text("\n".join([*lines, '{"kind": "tra']))
    sink = JsonLinesSink()
    sink.open(Session(Config(), tmp_path, 28, 1000, 1))
    sink.close()
    assert f"{tmp_path / METRICS_FILE} lacks 15 steps (14 to 28), which could not be written" in caplog.text


def test_tensorboard_leaves_the_hook_of_threads_as_it_was(tmp_path: Path) -> None:
    before = threading.excepthook
    first, second = open_on(TensorBoardSink(), tmp_path), open_on(TensorBoardSink(), tmp_path)
    assert threading.excepthook is not before
    first.close()
    second.close()
    assert threading.excepthook is before


def test_the_steps_after_a_full_disk_are_in_the_files_of_tensorboard(
    disk: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    sink = TensorBoardSink()
    sink.retry_s = 0.0
    open_on(sink, disk)
    for step in range(1, 13):
        if step in (4, 8):
            sink.rewind(step - 1)  # also writes out what is buffered
        if step == 4:
            fill(disk)
        if step == 8:
            (disk / "ballast").unlink()
        sink.step({"step": step, "loss": float(step)})
    sink.close()
    read = EventAccumulator(str(disk / "tensorboard"), purge_orphaned_data=False).Reload()
    steps = [event.step for event in read.Scalars("train/loss")]
    assert {1, 2, 3, 8, 9, 10, 11, 12} <= {*steps}
    assert caplog.text.count("cannot be written") == 1
    assert "Traceback" not in capfd.readouterr().err


def test_a_last_checkpoint_without_room_ends_the_run_with_one_clear_line(
    disk: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    settings = config(disk / "run", corpus, 2, checkpoint_every=1, checkpoint_in_background=False)
    run = prepare_run(settings)
    with pytest.raises(RankError, match=r"SaveError: .*step-00000003 cannot be written: .*No space left on device"):
        ranks(2, train_on_a_full_disk, run, disk, run.total_steps, run.total_steps)
    assert saved_steps(disk / "run") == [1, 2]
