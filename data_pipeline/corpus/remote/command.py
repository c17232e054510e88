"""Files that a command writes to its output, through webdataset's gopen."""

import os
import select
import shlex
import signal
import subprocess
from contextlib import suppress

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
        from webdataset.gopen import gopen, set_options  # this import takes 2 s

        self._url, self._timeout_s = url, timeout_s
        # In a session of its own, the command can be ended together with all processes that it started.
        self._pipe = gopen(f"pipe:exec setsid sh -c {shlex.quote(url.removeprefix('pipe:'))}", "rb")
        set_options(self._pipe, timeout=timeout_s)
        self._has_ended = False

    def read(self) -> bytes:
        output = select.poll()
        output.register(self._pipe.stream, select.POLLIN)
        if not output.poll(self._timeout_s * 1e3):
            raise silence(self._url, self._timeout_s)
        if data := os.read(self._pipe.stream.fileno(), CHUNK_BYTES):
            return data
        try:
            self._pipe.close()  # waits for the status of the command
        except subprocess.TimeoutExpired as error:
            raise FetchError(f"{self._url} did not end within {self._timeout_s:g} s of its output") from error
        except OSError as error:
            raise FetchError(f"{self._url} ended with status {self._pipe.proc.returncode}") from error
        self._has_ended = True
        return b""

    def close(self) -> None:
        if not self._has_ended:
            with suppress(ProcessLookupError):
                os.killpg(self._pipe.proc.pid, signal.SIGKILL)
            self._pipe.proc.kill()  # in case it had no time to start its session
            self._pipe.ignore_errors = True
            self._pipe.close()
            self._pipe.proc.wait()
