"""A program for the tests to interrupt: starts two tasks that sleep, on a Ray cluster of its own, and waits for them.

Usage: python -m tests.launcher.array.in_foreground FOLDER
"""

import signal
import sys
from pathlib import Path

from foretrain.launcher.array.run import running
from foretrain.launcher.launchers import LAUNCHERS
from tests.launcher.array.programs import job_array

SLEEPS = (
    "import subprocess; signal.signal(signal.SIGTERM, lambda *_: (note('saved'), os._exit(85))); "
    "child = subprocess.Popen(['sleep', '1000']); note('start'); child.wait()"
)


def main() -> None:
    """Run the tasks."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore Ctrl-C
    with running(job_array(Path(sys.argv[1]), {"a": SLEEPS, "b": SLEEPS}, at_once=2), LAUNCHERS.get("ray")) as ends:
        print(next(ends))


if __name__ == "__main__":
    main()
