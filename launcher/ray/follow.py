"""Prints a Ray job's log until the job ends. Signals that ask this process to stop, stop the job."""

import asyncio
import logging
import re
import signal
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from foretrain.launcher.ray.submission import connected
from foretrain.trainer.run.exit_status import EXIT_DONE

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)
_POLL_S = 0.3
_TAIL_CHARS = 2000
_LAST_LINE = re.compile(r"the driver exits with status (\d+)")


def follow(address: str, submission_id: str) -> int:
    """Print the job's log as it grows, and return the exit status of its driver; 1 if it has none.

    SIGINT, SIGTERM, SIGUSR2 and SIGHUP (unless it is ignored, as after nohup) have the job write a checkpoint and end.
    After a second signal the job is no longer followed (exit status 128 + its number). Raises ValueError if the
    cluster cannot be reached.
    """
    with connected(address) as client:
        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)  # it reports each connection
        return asyncio.run(_Follower(client, submission_id).run())


class _Follower:
    def __init__(self, client: "JobSubmissionClient", submission_id: str) -> None:
        self._client, self._id = client, submission_id
        self._num_shown = 0
        self._tail = ""
        self._asked: list[signal.Signals] = []
        self._stopping: asyncio.Task[None] | None = None

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        following = asyncio.ensure_future(self._follow())

        def ask(signum: signal.Signals) -> None:
            self._asked.append(signum)
            if self._stopping is None:
                self._stopping = asyncio.ensure_future(self._stop(signum))
            else:
                following.cancel()

        signals = [
            each for each in _STOP_SIGNALS if signal.getsignal(each) is not signal.SIG_IGN or each != signal.SIGHUP
        ]
        for signum in signals:
            loop.add_signal_handler(signum, ask, signum)
        try:
            return await following
        except asyncio.CancelledError:
            return 128 + self._asked[-1]
        finally:
            for signum in signals:
                loop.remove_signal_handler(signum)

    async def _stop(self, signum: signal.Signals) -> None:
        print(f"\n{signum.name}: stops the job; a second signal returns at once", file=sys.stderr, flush=True)
        await asyncio.to_thread(self._client.stop_job, self._id)

    async def _follow(self) -> int:
        await self._show()
        # The log may end before Ray knows that the job has, and a connection may break.
        while not (await asyncio.to_thread(self._client.get_job_status, self._id)).is_terminal():
            await asyncio.sleep(_POLL_S)
            await self._show()
        info = await asyncio.to_thread(self._client.get_job_info, self._id)
        if info.driver_exit_code is not None:
            return info.driver_exit_code
        said = _LAST_LINE.findall(self._tail)
        if not said and info.message:
            print(info.message, file=sys.stderr)
        return int(said[-1]) if said else EXIT_DONE if info.status.value == "SUCCEEDED" else 1

    async def _show(self) -> None:
        """Print the new part of the log, until it ends or the connection breaks."""
        seen = 0
        async for text in self._chunks():
            new = text[max(0, self._num_shown - seen) :]
            seen += len(text)
            self._num_shown = max(self._num_shown, seen)
            self._tail = (self._tail + new)[-_TAIL_CHARS:]
            print(new, end="", flush=True)

    async def _chunks(self) -> AsyncIterator[str]:
        try:
            async for text in self._client.tail_job_logs(self._id):
                yield text
        except (RuntimeError, OSError) as error:
            print(f"the connection to the job's log broke, connects again: {error}", file=sys.stderr, flush=True)
