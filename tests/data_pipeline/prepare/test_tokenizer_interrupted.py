"""Training a tokenizer ends at once where it is told to, or finds no room."""

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from foretrain.data_pipeline.prepare import background
from foretrain.data_pipeline.prepare.tokenizer import save_tokenizer, train_tokenizer


def test_a_tokenizer_that_finds_no_room_is_an_os_error_with_a_number(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        save_tokenizer(train_tokenizer(iter(["abc"]), 260), tmp_path / "tokenizer.json")
    assert not (tmp_path / "tokenizer.json").exists()


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C means what it does in a terminal: a shell's background jobs, and so these tests there, ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_the_training_of_a_tokenizer_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "PATIENCE_S", 0.0)
    draw = random.Random(0)
    texts = [" ".join("".join(draw.choices("abcdefgh", k=9)) for _ in range(1000)) for _ in range(250)]
    start_s = time.monotonic()
    train_tokenizer(iter(texts[:50]), 2000)
    whole_s = time.monotonic() - start_s
    timer = threading.Timer(whole_s / 4, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    start_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        train_tokenizer(iter(texts), 2000)  # so much that it cannot be done before the signal comes
    assert time.monotonic() - start_s < whole_s * 3
