"""Prepares the fork server: multiprocessing imports this module in it, once, before the first rank is forked.

Every rank inherits what happens here: the heavy modules already imported, signals held back until the rank is ready
for them, and the certainty that the server dies with the launcher. It is imported nowhere else.
"""

import os
import signal

from foretrain.launcher.local.forkserver import PRELOAD_VARIABLE
from foretrain.launcher.local.imports import import_all
from foretrain.launcher.parent_death import die_with_parent

HELD_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGUSR2})
"""Blocked here and unblocked by each rank, so that one sent while a rank starts is neither lost nor deadly."""

SERVER_PID = os.getpid()
"""Process id of the fork server, as its ranks inherit it."""

signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
die_with_parent()
FAILED = import_all([name for name in os.environ.get(PRELOAD_VARIABLE, "").split(",") if name], will_fork=True)
