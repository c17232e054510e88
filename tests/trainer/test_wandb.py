"""The curve of a run in the files that W&B writes without a server, read back with its own records."""

import math
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from foretrain.configs.schema import Config, TrainConfig
from foretrain.trainer.callbacks.base import HeldOutLoss
from foretrain.trainer.run.setup import check_without_data
from foretrain.trainer.sinks import JsonLinesSink, Reporter, Session, WandbSink
from foretrain.trainer.sinks.sent import read_sent
from tests.required import need_module
from tests.trainer.failing_server import failing_server
from tests.trainer.test_progress import train_metrics

HEADER_BYTES, BLOCK_BYTES = 7, 1 << 15
"""Sizes in the format of LevelDB's logs: the header of the file and of each part of a record, and a block, whose end no
part crosses."""


@pytest.fixture(autouse=True)
def library() -> Iterator[None]:
    need_module("wandb")
    yield
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()  # it reads the environment once


def records(path: Path) -> Iterator[Any]:
    """The records of a file of W&B."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, record = path.read_bytes(), HEADER_BYTES, b""
    while at + HEADER_BYTES <= len(content):
        if BLOCK_BYTES - at % BLOCK_BYTES < HEADER_BYTES:
            at += BLOCK_BYTES - at % BLOCK_BYTES
            continue
        _, length, part = struct.unpack_from("<IHB", content, at)
        at += HEADER_BYTES
        record += content[at : at + length]
        at += length
        if part in (1, 4):  # all of a record, or its last part
            yield Record.FromString(record)
            record = b""


def read_back(run_dir: Path) -> tuple[set[str], list[dict[str, str]]]:
    """The names of the runs in the files of all sessions, and their rows with values as JSON, in order."""
    names: set[str] = set()
    rows: list[dict[str, str]] = []
    for path in sorted(run_dir.glob("wandb/offline-run-*/*.wandb"), key=lambda each: each.stat().st_mtime_ns):
        for record in records(path):
            if record.HasField("run"):
                names.add(record.run.run_id)
                settings = {item.key for item in record.run.config.update}
                assert "optimizer.lr" in settings and not any(name.startswith("launch.") for name in settings)
            if record.HasField("history"):
                rows.append({item.key or ".".join(item.nested_key): item.value_json for item in record.history.item})
    return names, rows


@contextmanager
def reporting(
    run_dir: Path, start: int, total: int, mode: str = "offline", close_s: float = 60.0
) -> Iterator[Reporter]:
    sink = WandbSink()
    sink.settings = {"project": "curves", "entity": "", "mode": mode}
    sink.pause_s, sink.close_s, sink.init_s, sink.finish_s = 0.0, close_s, 2.0, 2.0 if mode == "online" else 60.0
    with Reporter([JsonLinesSink(), sink], Session(Config(), run_dir, start, total, 100)) as report:
        yield report


@pytest.mark.long
def test_the_files_of_wandb_have_the_curve_of_all_starts_under_one_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hook = sys.excepthook
    with reporting(tmp_path, 0, 6) as report:
        for step in range(1, 6):
            report.step(train_metrics(step, loss=math.inf if step == 2 else 1.0 / step))
        report.evaluation(5, HeldOutLoss(2.5, {"web": 2.75}))
    key = read_sent(tmp_path / "trackers" / "wandb.json").key
    with reporting(tmp_path, 4, 6) as report:  # it takes step 5 again
        for step in (5, 6):
            report.step(train_metrics(step, loss=2.0 / step))
    names, rows = read_back(tmp_path)
    assert names == {key} and sys.excepthook is hook and not caplog.messages
    losses = [(int(row["step"]), float(row["train/loss"].strip('"'))) for row in rows if "train/loss" in row]
    assert losses == [(1, 1.0), (2, math.inf), (3, 1 / 3), (4, 0.25), (5, 0.2), (5, 0.4), (6, 1 / 3)]
    assert [(row["step"], row["eval/val_loss/web"]) for row in rows if "eval/val_loss" in row] == [("5", "2.75")]


@pytest.mark.long
@pytest.mark.parametrize("stalls", [False, True])
def test_a_server_of_wandb_that_fails_or_does_not_answer_neither_stops_nor_keeps_a_run(
    stalls: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", 40 * "a")
    with failing_server(stalls) as (uri, num_requests):
        monkeypatch.setenv("WANDB_BASE_URL", uri)
        with reporting(tmp_path, 0, 5, "online", close_s=30.0) as report:
            for step in range(1, 6):
                report.step(train_metrics(step))
        assert num_requests() > 0
    assert "wandb gets no metrics now (" in caplog.text and "wandb lacks the steps after 0" in caplog.text
    with reporting(tmp_path, 5, 5):
        pass
    _, rows = read_back(tmp_path)
    assert [row["step"] for row in rows] == [*"12345"]


def test_wandb_without_a_key_and_with_an_unknown_mode_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    def check(**options: str) -> None:
        check_without_data(Config(train=TrainConfig(sinks=["wandb"], sink_options={"wandb": options})))

    with pytest.raises(ValueError, match=r"^train.sinks has 'wandb': there is no key for W&B: set WANDB_API_KEY in"):
        check(project="curves")
    with pytest.raises(ValueError, match=r"^train.sinks has 'wandb': mode = of is none: use online or offline"):
        check(mode="of")
    check(mode="offline")
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password word\n")
    check(project="curves")
    (tmp_path / "netrc").write_text("machine other.host login user password word\n")
    monkeypatch.setenv("WANDB_API_KEY", "word")
    check(project="curves")
