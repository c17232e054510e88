"""Runs a command that trains on this machine, and starts it again when its processes were killed or hung.

`python -m foretrain.launcher.local.supervise --max-starts N RUN_DIR COMMAND...`. Whether it is started again is decided
as on clusters (`launcher/restart.py`), but for one case: who stops a run of this machine wants it stopped.
With `--sizes`, the run is elastic: each start gets the option parallel.dp=SIZE, and a size with which the run does not
get further is followed by the next smaller one.
"""

import os
import signal
import subprocess
import sys
import time
from argparse import REMAINDER, ArgumentParser
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import FrameType

from foretrain.launcher.elastic import Sizes
from foretrain.launcher.local.size import LocalSize
from foretrain.launcher.parent_death import die_with_parent
from foretrain.launcher.restart import EXIT_SIGNAL, decide, pause_s, record_start, was_cut_short
from foretrain.streams import outlive_readers
from foretrain.trainer.run.exit_status import EXIT_CONFIG, EXIT_DONE, EXIT_FAILED, EXIT_RESUME

MODULE = "foretrain.launcher.local.supervise"
_POLL_S = 0.1
_SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR2)


class Supervisor:
    """Starts a command, passes its own signals on to it, and starts it again unless one of them came."""

    def __init__(self, run_dir: Path, command: Sequence[str], max_starts: int, size: LocalSize | None = None) -> None:
        """`size`: chooses the data-parallel size of each start; None: the command has it."""
        self._run_dir, self._command, self._max_starts, self._size = run_dir, command, max_starts, size
        self._job = f"local-{os.getpid()}-{time.time_ns()}"
        self._is_asked_to_stop = False
        self._child: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """The exit status of the last start. Call it from the main thread."""
        for signum in _SIGNALS:
            if signum != signal.SIGHUP or signal.getsignal(signum) is not signal.SIG_IGN:  # it is, after nohup
                signal.signal(signum, self._handle)
        while (status := self._start_once()) is None:
            pass
        return status

    def _start_once(self) -> int | None:
        """Start the command, and return its exit status; None: it is to be started again."""
        job, command = self._job, self._command
        if self._size is not None:
            try:
                size = self._size.choose()
            except ValueError as error:
                _say(str(error))
                return EXIT_FAILED
            # A job of its own, since starts with another size do not count for this one.
            job, command = f"{job}-dp{size}", [*command, f"parallel.dp={size}"]
        refusal = record_start(self._run_dir, job, self._max_starts)
        if refusal is not None:
            _say(refusal)
            return EXIT_FAILED
        status = self._start(command)
        if self._is_asked_to_stop:
            return status
        if not was_cut_short(status):
            return None if self._has_lost_ranks(status) else status
        again, words = decide(self._run_dir, job, self._max_starts, status)
        _say(words)
        again = again or self._takes_smaller_size()
        until_s = time.monotonic() + (pause_s(self._run_dir, job, status) if again else 0.0)
        while time.monotonic() < until_s and not self._is_asked_to_stop:
            time.sleep(_POLL_S)
        return None if again and not self._is_asked_to_stop else status

    def _has_lost_ranks(self, status: int) -> bool:
        """Whether a failure may be due to a GPU that has gone: then a smaller size may work."""
        if self._size is None or status in (EXIT_DONE, EXIT_CONFIG, EXIT_RESUME) or not self._size.is_too_large():
            return False
        _say(f"launch.elastic: this machine cannot run dp = {self._size.size} any more")
        return True

    def _takes_smaller_size(self) -> bool:
        """Give up the size that did not get further, and return whether there is a smaller one."""
        if self._size is None or not self._size.give_up_size():
            return False
        _say(f"launch.elastic: continues with a size below dp = {self._size.size}, which did not get further")
        return True

    def _start(self, command: Sequence[str]) -> int:
        """The exit status of the command, or 128 + n if signal n killed it."""
        # If this process is killed, the run writes a checkpoint: nobody would notice that it still trains.
        on_start = partial(die_with_parent, os.getpid(), signal.SIGTERM)
        self._child = subprocess.Popen(command, preexec_fn=on_start)
        if self._is_asked_to_stop:
            self._child.terminate()
        status = self._child.wait()
        return status if status >= 0 else EXIT_SIGNAL - status

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self._is_asked_to_stop = True
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signum)


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command of the arguments, and return its exit status."""
    parser = ArgumentParser(prog=MODULE, description=__doc__)
    parser.add_argument("--max-starts", type=int, required=True)
    parser.add_argument("--sizes", type=Sizes.parse, help="data-parallel sizes, and ranks of a replica: 1,2,4x8")
    parser.add_argument("--device", default="auto", help="train.device of the run; for --sizes")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("command", nargs=REMAINDER)
    asked = parser.parse_args(arguments)
    outlive_readers(lambda reason: None)  # the run continues although nothing can be printed
    size = None if asked.sizes is None else LocalSize(asked.sizes, asked.device)
    return Supervisor(asked.run_dir, asked.command, asked.max_starts, size).run()


if __name__ == "__main__":
    sys.exit(main())
