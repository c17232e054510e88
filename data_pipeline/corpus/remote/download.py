"""Download of one file with retries: an interrupted download resumes, and the complete file is checked."""

import hashlib
import random
from collections.abc import Callable
from contextlib import closing
from typing import BinaryIO

from foretrain import limits
from foretrain.data_pipeline.corpus.remote.cache import CachedFile
from foretrain.data_pipeline.corpus.remote.transport import Body, FetchError, Transport
from foretrain.data_pipeline.errors import UnreachableError, UnreadableError

FIRST_WAIT = 1 / 30
"""Wait before the second attempt, as a share of the timeout; each wait is twice the previous one."""
LONGEST_WAIT = 2.0
"""Longest wait, as a share of the timeout."""
LONGEST_REQUESTED_WAIT_S = 600.0
"""Longest wait that a server may request."""


class Download:
    """Download of a file that may hold its first bytes already. `expected` is None if nothing is known of the file.

    `on_bytes` is called with the number of bytes that have arrived, and `wait` with the seconds before the next
    attempt. Either may raise an error to end the download.
    """

    def __init__(
        self,
        transport: Transport,
        name: str,
        expected: CachedFile | None,
        file: BinaryIO,
        *,
        on_bytes: Callable[[int], None],
        wait: Callable[[float], None],
    ) -> None:
        self._transport, self._name, self._expected = transport, name, expected
        self._file, self._on_bytes, self._wait = file, on_bytes, wait
        self._sha256 = hashlib.sha256()
        self._num_bytes = 0
        file.seek(0)
        while data := file.read(2**20):
            self._add(data)

    def run(self, retries: int, timeout_s: float) -> None:
        """Complete the file and check it. Raises UnreadableError after the last one, UnreachableError if more may help.

        Attempts that bring new bytes are not counted, so a large shard arrives over a connection that often breaks.
        """
        failures, furthest_bytes = 0, self._num_bytes
        while True:
            try:
                return self._attempt()
            except FetchError as error:
                if error.restart:
                    self._restart()
                failures = 1 if self._num_bytes > furthest_bytes else failures + 1
                furthest_bytes = max(furthest_bytes, self._num_bytes)
                if error.is_permanent or failures > retries:
                    raise self._unreadable(error, failures) from error
                wait_s = max(backoff_s(failures, timeout_s), min(error.wait_s, LONGEST_REQUESTED_WAIT_S))
            self._wait(wait_s)

    def _attempt(self) -> None:
        url = self._transport.url_of(self._name)
        size_bytes = self._expected.size_bytes if self._expected else None
        if size_bytes is None or self._num_bytes != size_bytes:  # else a process was killed just before the check
            with closing(self._transport.open(self._name, self._num_bytes)) as body:
                if body.offset_bytes == 0:
                    self._restart()
                if body.offset_bytes != self._num_bytes:
                    raise FetchError(f"{url} sent another part than was requested")
                if size_bytes is None:
                    size_bytes = body.size_bytes
                    self._refuse_more_than_limit(url, size_bytes or 0)
                elif body.size_bytes not in (None, size_bytes):
                    raise FetchError(f"{url} has {body.size_bytes} bytes, but {size_bytes} were written", restart=True)
                self._copy(body, size_bytes, url)
        if size_bytes is not None and self._num_bytes != size_bytes:
            is_longer = self._num_bytes > size_bytes
            raise FetchError(f"{url} ended after {self._num_bytes} of {size_bytes} bytes", restart=is_longer)
        if self._expected and self._sha256.hexdigest() != self._expected.sha256:
            raise FetchError(f"{url} has other bytes than were written (SHA-256)", restart=True)

    def _refuse_more_than_limit(self, url: str, size_bytes: int) -> None:
        """Raise FetchError, which no other attempt can change, for a file beyond the limit of its kind."""
        limit = self._expected.max_bytes if self._expected else limits.MANIFEST_BYTES
        if limit is not None and size_bytes > limit:
            raise FetchError(
                f"{url} has more than {limit:,} bytes, which is the limit of such a file, so it is none of a corpus",
                is_permanent=True,
            )

    def _copy(self, body: Body, size_bytes: int | None, url: str) -> None:
        while data := body.read():
            if self._expected is None or self._expected.size_bytes is None:
                self._refuse_more_than_limit(url, self._num_bytes + len(data))
            self._file.write(data)
            self._add(data)
            self._on_bytes(len(data))
            if size_bytes is not None and self._num_bytes > size_bytes:
                return

    def _add(self, data: bytes) -> None:
        self._sha256.update(data)
        self._num_bytes += len(data)

    def _restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._sha256 = hashlib.sha256()
        self._num_bytes = 0

    def _unreadable(self, error: FetchError, failures: int) -> UnreadableError:
        attempts = "" if error.is_permanent else f", at attempt {failures}, the last one"
        advice = "check data.path and who may read it" if error.is_permanent else "check the server and the network"
        # Bytes that are not those of the manifest will be no others later.
        kind = UnreadableError if error.is_permanent or error.restart else UnreachableError
        return kind(f"{error}{attempts}: {advice}, then run the same command again", self._name, 0)


def backoff_s(failures: int, timeout_s: float) -> float:
    """Return the wait after consecutive failures: twice as long each time, and random, so that ranks differ."""
    longest_s = min(FIRST_WAIT * 2.0 ** (failures - 1), LONGEST_WAIT) * timeout_s
    return longest_s * random.uniform(0.5, 1.0)
