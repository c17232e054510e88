"""Becomes another program that dies with the process that started it.

Usage: python -m foretrain.launcher.ray.child PARENT_PID COMMAND ... The kernel kills it when the thread of the parent
that started it ends. (Not by Popen's preexec_fn: that may hang in a process of many threads, such as Ray's.)
"""

import os
import signal
import sys

from foretrain.launcher.parent_death import die_with_parent


def main() -> None:
    """Become the command."""
    die_with_parent(int(sys.argv[1]))
    # What Ray's processes block or ignore passes on to their children.
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
