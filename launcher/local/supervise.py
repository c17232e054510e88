"""Runs a command that trains on this machine, and starts it again when its processes were killed or hung.

`python -m foretrain.launcher.local.supervise --max-starts N RUN_DIR COMMAND...`. Whether it is started again is decided
as on clusters (`launcher/restart.py`), but for one case: who stops a run of this machine wants it stopped.
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

from foretrain.launcher.parent_death import die_with_parent
from foretrain.launcher.restart import EXIT_SIGNAL, decide, record_start, was_cut_short
from foretrain.trainer.run.exit_status import EXIT_FAILED

MODULE = "foretrain.launcher.local.supervise"
_SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR2)


class Supervisor:
    """Starts a command, passes its own signals on to it, and starts it again unless one of them came."""

    def __init__(self, run_dir: Path, command: Sequence[str], max_starts: int) -> None:
        self._run_dir, self._command, self._max_starts = run_dir, command, max_starts
        self._job = f"local-{os.getpid()}-{time.time_ns()}"
        self._is_asked_to_stop = False
        self._child: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """The exit status of the last start. Call it from the main thread."""
        for signum in _SIGNALS:
            if signum != signal.SIGHUP or signal.getsignal(signum) is not signal.SIG_IGN:  # it is, after nohup
                signal.signal(signum, self._handle)
        while True:
            refusal = record_start(self._run_dir, self._job, self._max_starts)
            if refusal is not None:
                print(refusal, file=sys.stderr)
                return EXIT_FAILED
            status = self._start()
            if self._is_asked_to_stop or not was_cut_short(status):
                return status
            again, words = decide(self._run_dir, self._job, self._max_starts, status)
            print(words, file=sys.stderr, flush=True)
            if not again or self._is_asked_to_stop:
                return status

    def _start(self) -> int:
        """The exit status of the command, or 128 + n if signal n killed it."""
        # If this process is killed, the run writes a checkpoint: nobody would notice that it still trains.
        on_start = partial(die_with_parent, os.getpid(), signal.SIGTERM)
        self._child = subprocess.Popen(self._command, preexec_fn=on_start)
        if self._is_asked_to_stop:
            self._child.terminate()
        status = self._child.wait()
        return status if status >= 0 else EXIT_SIGNAL - status

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self._is_asked_to_stop = True
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signum)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command of the arguments, and return its exit status."""
    parser = ArgumentParser(prog=MODULE, description=__doc__)
    parser.add_argument("--max-starts", type=int, required=True)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("command", nargs=REMAINDER)
    asked = parser.parse_args(arguments)
    return Supervisor(asked.run_dir, asked.command, asked.max_starts).run()


if __name__ == "__main__":
    sys.exit(main())
