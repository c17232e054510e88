"""What a run shows: lines in a log, a display on a terminal, and the table at its end."""

import fcntl
import io
import os
import pty
import re
import struct
import termios
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from foretrain.configs.schema import Config, TrainConfig
from foretrain.data_pipeline.stream.data import UnigramLoss
from foretrain.trainer.callbacks.base import HeldOutLoss
from foretrain.trainer.model.size import ModelSize
from foretrain.trainer.recorded_curve import RecordedCurve
from foretrain.trainer.run.summary import has_learned_nothing, summary
from foretrain.trainer.sinks import Reporter, Session, TerminalSink
from foretrain.trainer.sinks.lines import SPEED_WINDOW_STEPS, Speed

CONTROL_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def train_metrics(step: int, step_s: float = 0.5, loss: float = 2.0) -> dict[str, Any]:
    return {
        "kind": "train",
        "step": step,
        "tokens": 100 * step,
        "loss": loss,
        "grad_norm": 0.75,
        "lr": 1e-3,
        "tokens_per_s": 100 / step_s,
        "step_s": step_s,
    }


def log_console() -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=40), file


def progress_of(total_steps: int, log_every: int, console: Console, start_step: int = 0) -> Reporter:
    """A reporter that shows the steps of a session on `console`."""
    config = Config(train=TrainConfig(log_every=log_every))
    session = Session(config, Path("runs/run"), start_step, total_steps, tokens_per_step=100)
    return Reporter([TerminalSink(console)], session)


def test_a_log_gets_one_line_every_log_every_steps_and_one_at_the_end() -> None:
    console, file = log_console()
    with progress_of(25, 10, console) as progress:
        for step in range(1, 26):
            progress.step(train_metrics(step))
    lines = file.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 10/25", "step 20/25", "step 25/25"]
    assert lines[0] == "step 10/25  loss 2.0000  grad norm 0.750  lr 1.00e-03  200 tok/s  0:00:08 left"


def test_a_run_that_stops_early_still_shows_its_last_step_once() -> None:
    console, file = log_console()
    with progress_of(100, 5, console, start_step=40) as progress:
        for step in range(41, 48):
            progress.step(train_metrics(step))
    assert re.findall(r"step +(\d+)/100", file.getvalue()) == ["45", "47"]


def test_a_run_with_no_step_left_shows_none() -> None:
    console, file = log_console()
    with progress_of(100, 5, console, start_step=100):
        pass
    assert file.getvalue() == ""


def test_a_log_shows_held_out_losses_and_messages_as_they_are_written() -> None:
    console, file = log_console()
    message = "saved [bold] to runs/a-name-that-is-longer-than-the-width-of-the-console"
    with progress_of(100, 10, console) as progress:
        progress.evaluation(7, HeldOutLoss(1.5))
        progress.message(message)
    assert file.getvalue() == f"step   7/100  held-out loss 1.5000\n{message}\n"


def test_a_log_stays_free_of_control_codes_even_if_colour_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    console, file = log_console()
    assert console.is_terminal
    with progress_of(2, 1, console) as progress:
        progress.step(train_metrics(1))
    assert "\x1b" not in file.getvalue()


def test_a_terminal_shows_the_latest_values_in_place_within_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    output = bytearray()
    reader = threading.Thread(target=read_until_closed, args=(leader, output))
    reader.start()
    with os.fdopen(follower, "w") as terminal, progress_of(300, 10, Console(file=terminal)) as progress:
        for step in range(1, 10):
            progress.step(train_metrics(step))
        progress.evaluation(9, HeldOutLoss(1.5))
        progress.message("checkpoint saved")
    reader.join()
    os.close(leader)
    lines = CONTROL_SEQUENCE.sub("", output.decode()).replace("\r", "\n").splitlines()
    assert "checkpoint saved" in lines
    assert any(line.startswith("step   9/300") and line.endswith("0:02:26 left") for line in lines)
    assert "loss 2.0000  held-out 1.5000  grad norm 0.750  lr 1.00e-03  200 tok/s" in map(str.rstrip, lines)
    assert max(map(len, lines)) <= 80


def read_until_closed(descriptor: int, output: bytearray) -> None:
    while True:
        try:
            chunk = os.read(descriptor, 65536)
        except OSError:  # how Linux says that nobody has the terminal open any more
            return
        if not chunk:
            return
        output += chunk


@given(first_s=st.floats(0.001, 1e4), step_s=st.floats(0.001, 1e3), num_steps=st.integers(1, 200))
def test_speed_forgets_the_first_step(first_s: float, step_s: float, num_steps: int) -> None:
    speed = Speed(tokens_per_step=1000)
    speed.add(first_s)
    assert speed.tokens_per_s() is None
    for _ in range(num_steps):
        speed.add(step_s)
    assert speed.tokens_per_s() == pytest.approx(1000 / step_s)


def test_speed_forgets_what_is_long_past() -> None:
    speed = Speed(tokens_per_step=1000)
    for step_s in [1.0, *[5.0] * 30, *[0.5] * SPEED_WINDOW_STEPS]:
        speed.add(step_s)
    assert speed.tokens_per_s() == pytest.approx(2000)


UNIGRAM = UnigramLoss(6.0, is_of_held_out=True)


def summary_text(
    records: list[dict[str, Any]],
    run_dir: Path,
    unigram: UnigramLoss = UNIGRAM,
    layouts: Sequence[tuple[int, str]] = ((0, "dp 2, tp 2, pp 2"),),
) -> str:
    console, file = log_console()
    console.width = 120
    table = summary(
        RecordedCurve.of(records),
        run_dir=run_dir,
        layouts=layouts,
        size=ModelSize(num_params=12345, num_params_without_embeddings=2345, flops_per_token=80_000),
        unigram=unigram,
        goodput="90.0%",
    )
    console.print(table)
    return file.getvalue()


def test_the_summary_shows_the_results_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / "loss.png").touch()
    records = [train_metrics(step, loss=8.0 if step == 1 else 3.0 if step > 18 else 5.0) for step in range(1, 21)]
    parts = {"val_loss/code": 3.5, "val_loss/news": 2.75, "val_loss_standard_error/code": 0.1}
    records.append({"kind": "eval", "step": 20, "val_loss": 3.25, "val_bits_per_byte": 1.5, **parts})
    text = summary_text(records, tmp_path)
    for expected in (
        r"tokens trained +│ 2,000 in 20 steps",
        r"time in steps +│ 0:00:",
        r"goodput +│ 90\.0%",
        r"speed +│ 200 tokens/s",
        r"parameters +│ 12,345 \(2,345 without embeddings\)",
        r"training FLOPs +│ 1\.6e\+08 \(6 N D would be 1\.481e\+08\)",
        r"layout +│ dp 2, tp 2, pp 2",
        r"first training loss +│ 8\.0000",
        r"final training loss +│ 3\.0000",
        r"held-out loss +│ 3\.2500",
        r"held-out loss of +│ code 3\.5000, news 2\.7500 +│",
        r"bits per byte +│ 1\.5000",
        r"unigram loss +│ 6\.0000 \(on held-out tokens",
        r"loss against it +│ 2\.7500 below",
        r"loss\.png,",  # the path before it is of any length, and lines break
    ):
        assert re.search(expected, text), f"{expected} is not in\n{text}"


def test_the_summary_shows_which_layout_trained_which_steps(tmp_path: Path) -> None:
    records = [train_metrics(step) for step in range(1, 1201)]
    text = summary_text(records, tmp_path, layouts=[(0, "dp 2"), (1000, "dp 4")])
    assert re.search(r"layout +│ dp 2 \(steps 1 to 1,000\) ", text)
    assert re.search(r"│ dp 4 \(steps 1,001 to 1,200\) ", text)


@pytest.mark.parametrize(
    ("loss", "verdict"), [(6.5, "0.5000 ABOVE"), (5.5, "0.5000 below"), (float("nan"), "diverged")]
)
def test_without_held_out_samples_the_summary_judges_the_training_loss(
    tmp_path: Path, loss: float, verdict: str
) -> None:
    text = summary_text([train_metrics(1, loss=loss)], tmp_path)
    assert verdict in text
    assert "held-out loss" not in text


def test_the_summary_says_on_which_tokens_the_unigram_loss_is(tmp_path: Path) -> None:
    for is_of_held_out, shown in ((True, "on held-out tokens"), (False, "on training tokens")):
        assert shown in summary_text([train_metrics(1)], tmp_path, UnigramLoss(6.0, is_of_held_out))


@pytest.mark.parametrize(
    ("held_out", "has_learned"), [(5.9, True), (6.0, False), (6.1, False), (float("nan"), False), (None, True)]
)
def test_a_run_that_ends_above_the_unigram_loss_does_not_look_like_a_success(
    held_out: float | None, has_learned: bool
) -> None:
    records: list[dict[str, Any]] = [train_metrics(1, loss=5.0)]
    if held_out is not None:
        records.append({"kind": "eval", "step": 1, "val_loss": held_out})
    warning = has_learned_nothing(RecordedCurve.of(records), UNIGRAM)
    assert (warning is None) == has_learned
    assert warning is None or "lower optimizer.lr" in warning


def test_a_run_without_steps_has_no_summary(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no training step"):
        summary_text([{"kind": "eval", "step": 0, "val_loss": 3.0}], tmp_path)
