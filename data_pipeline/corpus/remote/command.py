"""Files that a command writes to its output."""

import os
import select
import shlex
import signal
import subprocess

from foretrain.data_pipeline.corpus.remote.transport import CHUNK_BYTES, Body, FetchError, Transport, silence
from foretrain.data_pipeline.errors import CorpusError


class CommandTransport(Transport):
    """The output of a shell command, in which {} is replaced by the name of the file."""

    def __init__(self, url: str, timeout_s: float) -> None:
        if "{}" not in url:
            raise CorpusError(f"{url} has no {{}}: put {{}} where the command needs the name of a file")
        self._url, self._timeout_s = url, timeout_s

    def url_of(self, name: str) -> str:
        """Return "pipe:" and the command."""
        return self._url.replace("{}", shlex.quote(name))

    def open(self, name: str, offset_bytes: int) -> Body:
        """Start the command, which writes the complete file whatever the offset."""
        return _CommandBody(self.url_of(name), self._timeout_s)


class _CommandBody(Body):
    offset_bytes = 0
    size_bytes = None

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url, self._timeout_s = url, timeout_s
        # In a session of its own, the command can be ended together with all processes that it started.
        command = url.removeprefix("pipe:")
        self._process = subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, start_new_session=True)

    def read(self) -> bytes:
        assert self._process.stdout is not None
        output = select.poll()
        output.register(self._process.stdout, select.POLLIN)
        if not output.poll(self._timeout_s * 1e3):
            raise silence(self._url, self._timeout_s)
        if data := os.read(self._process.stdout.fileno(), CHUNK_BYTES):
            return data
        try:
            status = self._process.wait(self._timeout_s)
        except subprocess.TimeoutExpired as error:
            raise FetchError(f"{self._url} did not end within {self._timeout_s:g} s of its output") from error
        if status != 0:
            raise FetchError(f"{self._url} ended with status {status}")
        return b""

    def close(self) -> None:
        with self._process:  # waits for its end
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
