"""The training of a tokenizer ends at once on Ctrl-C, and a full disk is an ordinary OSError."""

import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from foretrain.data_pipeline.prepare import background, tokenizer
from foretrain.data_pipeline.prepare.tokenizer import save_tokenizer, train_tokenizer
from tests.data_pipeline.corpus.served import wait_for


def test_a_full_disk_is_an_os_error_with_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda num_bytes: "0")  # in the name of the temporary file
    (tmp_path / ".tokenizer.json.0").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        save_tokenizer(train_tokenizer(iter(["abc"]), 260), tmp_path / "tokenizer.json")
    assert not (tmp_path / "tokenizer.json").exists()


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, as in a terminal. In a shell's background jobs it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def assert_interruption_ends(first_texts: Iterator[str]) -> None:
    """Train on these texts and on endless others, and assert that an interruption comes and leaves no thread."""
    before = set(threading.enumerate())
    is_over = threading.Event()

    def endless_texts() -> Iterator[str]:
        yield from first_texts
        while not is_over.is_set():  # during the test, the training can only end by the interruption
            time.sleep(0.001)
            yield "one more text"

    try:
        with pytest.raises(KeyboardInterrupt):
            train_tokenizer(endless_texts(), 300)
        wait_for(lambda: set(threading.enumerate()) == before)
    finally:
        is_over.set()


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_the_training_of_a_tokenizer_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "MAX_WAIT_S", 0.0)

    def texts() -> Iterator[str]:
        yield "the first text"
        os.kill(os.getpid(), signal.SIGINT)

    assert_interruption_ends(texts())


def test_ctrl_c_while_the_training_starts_ends_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def start_and_interrupt(function: Callable[[], None]) -> Future[None]:
        background.start(function)
        raise KeyboardInterrupt

    monkeypatch.setattr(tokenizer, "start", start_and_interrupt)
    assert_interruption_ends(iter(()))
