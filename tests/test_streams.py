"""No print fails when its reader is gone, and that it is gone is noticed once."""

import errno
import io
import os
import pty
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest

from foretrain.streams import LastingStream


def broken_pipe() -> TextIO:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def closed_terminal() -> TextIO:
    leader, follower = pty.openpty()
    os.close(leader)
    return os.fdopen(follower, "w")


@pytest.mark.parametrize(
    ("make", "reason"),
    [(broken_pipe, "Broken pipe"), (closed_terminal, "Input/output error")],
    ids=["pipe", "terminal"],
)
def test_a_stream_without_a_reader_takes_everything_and_says_once_why(make: Callable[[], TextIO], reason: str) -> None:
    stream = make()
    reasons: list[str] = []
    lasting = LastingStream(stream, reasons.append)
    for _ in range(3):
        assert lasting.write("text\n") == 5
        lasting.flush()
    stream.close()  # which writes what is left
    assert reasons == [reason]


def test_a_full_disk_loses_text_and_is_no_reason_to_stop() -> None:
    reasons: list[str] = []
    with Path("/dev/full").open("w") as stream:
        lasting = LastingStream(stream, reasons.append)
        lasting.write("text\n")
        lasting.flush()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # there is room again
        os.close(nowhere)
        lasting.flush()
    assert reasons == []


def test_a_log_file_on_a_disk_that_fails_is_no_reason_to_stop(tmp_path: Path) -> None:
    class FailingFile(io.TextIOWrapper):
        def write(self, text: str) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    reasons: list[str] = []
    with FailingFile((tmp_path / "log").open("wb")) as stream:
        assert LastingStream(stream, reasons.append).write("text\n") == 5
    assert reasons == []


def test_a_stream_with_a_reader_is_what_it_was() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", encoding="utf-8") as stream:
        lasting = LastingStream(stream, lambda reason: None)
        lasting.write("日本語")
        lasting.flush()
        assert (lasting.encoding, lasting.isatty(), lasting.fileno()) == ("utf-8", False, writer)
    with os.fdopen(reader, encoding="utf-8") as received:
        assert received.read() == "日本語"
