"""Prepares the fork server: multiprocessing imports this module in it, once, before the first rank is forked.

Every rank inherits the state that this creates: the heavy modules are imported, and signals are blocked until the rank
is ready for them. The server dies with the launcher. Nothing else may import this module.
"""

import os
import signal

from foretrain.launcher.local.forkserver import PRELOAD_VARIABLE
from foretrain.launcher.local.imports import import_all
from foretrain.launcher.parent_death import die_with_parent

HELD_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP})
"""Signals that each rank unblocks, so that one that is sent while the rank starts is neither lost nor deadly."""

SERVER_PID = os.getpid()
"""The process id of the fork server, which its ranks inherit."""

signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
die_with_parent()
FAILED = import_all([name for name in os.environ.get(PRELOAD_VARIABLE, "").split(",") if name], will_fork=True)
