"""Becomes another program, which dies with the process that started it.

Usage: python -m foretrain.launcher.ray.child PARENT_PID COMMAND ... The kernel kills it when the thread of the parent
that started it ends. (Popen's preexec_fn is no way to do this: it may hang in a process of many threads, as Ray's are.)
"""

import os
import signal
import sys

from foretrain.launcher.parent_death import die_with_parent


def main() -> None:
    """Become the command."""
    die_with_parent(int(sys.argv[1]))
    # Children inherit the signals that Ray's processes block or ignore.
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
