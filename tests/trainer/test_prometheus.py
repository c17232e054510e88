"""The metrics of a run as Prometheus reads them: over HTTP on loopback, while the run trains, and no longer."""

import math
import re
import socket
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from foretrain.configs.schema import Config
from foretrain.trainer.callbacks.base import HeldOutLoss
from foretrain.trainer.sinks import PrometheusSink, Reporter, Session, Sink
from tests.trainer.test_progress import train_metrics


class Messages(Sink):
    """Keeps the lines that it receives."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def prometheus(**settings: str) -> PrometheusSink:
    sink = PrometheusSink()
    sink.settings = {**PrometheusSink.options, **settings}
    return sink


def session(run_dir: Path, start_step: int = 0) -> Session:
    return Session(Config(), run_dir, start_step, 100, tokens_per_step=100)


def scraped(url: str) -> dict[tuple[str, str], float]:
    """The samples at an address, by the name and the label of each that is not that of the run."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        text = answer.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels: dict[str, str] = dict(sample.labels)
            assert labels.pop("run") == "a run"
            (label,) = labels.values()
            found[sample.name.removeprefix("foretrain_"), label] = sample.value
    return found


def test_prometheus_reads_the_latest_step_evaluation_and_events_over_http(tmp_path: Path) -> None:
    messages, run_dir = Messages(), tmp_path / "a run"
    with Reporter([prometheus(), messages], session(run_dir, 3)) as report:
        (line,) = messages.lines
        url = re.sub(r"^metrics for Prometheus are at (http://127\.0\.0\.1:\d+/metrics)$", r"\1", line)
        assert scraped(url) == {("step", ""): 3, ("total_steps", ""): 100}
        for step in (4, 5):
            report.step(train_metrics(step, loss=10.0 / step) | {"badput/other": 0.25})
        report.evaluation(5, HeldOutLoss(2.5, {"web": 2.75}))
        for _ in range(2):
            report.event("spike", 5, {}, "a spike")
        found = scraped(url)
        assert {key: found[key] for key in found if key[0] in ("step", "loss", "badput", "events_total")} == {
            ("step", ""): 5,
            ("loss", ""): 2.0,
            ("badput", "other"): 0.25,
            ("events_total", "spike"): 2,
        }
        assert (found["val_loss", ""], found["val_loss", "web"], found["val_step", ""]) == (2.5, 2.75, 5)
        report.step(train_metrics(6, loss=math.nan))
        assert math.isnan(scraped(url)["loss", ""])
        report.rewind(4)
        assert {key: value for key, value in scraped(url).items() if key[0] != "events_total"} == {
            ("step", ""): 4,
            ("total_steps", ""): 100,
        }
    port = int(url.rpartition(":")[2].partition("/")[0])
    with pytest.raises(ConnectionRefusedError), closing(socket.create_connection(("127.0.0.1", port), timeout=60)):
        pass


def test_a_port_that_is_taken_is_reported_and_the_run_continues(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    messages = Messages()
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        with Reporter([prometheus(port=str(port)), messages], session(tmp_path)) as report:
            report.step(train_metrics(1))
            report.evaluation(1, HeldOutLoss(2.5))
    assert messages.lines == []
    (warning,) = caplog.messages
    assert f"there are no metrics at 127.0.0.1:{port} (Address already in use), and the run continues" in warning


def test_a_reader_that_sends_nothing_keeps_neither_the_run_nor_its_end(tmp_path: Path) -> None:
    messages = Messages()
    with Reporter([prometheus(), messages], session(tmp_path / "a run")) as report:
        port = int(messages.lines[0].rpartition(":")[2].partition("/")[0])
        idle = socket.create_connection(("127.0.0.1", port))
        report.step(train_metrics(1))
        assert scraped(f"http://127.0.0.1:{port}/metrics")["step", ""] == 1
    idle.close()
