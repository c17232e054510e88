"""Imports what a run needs, once, in the server that forks the process of each run."""

import benchmarks.alarms.bugs  # noqa: F401 (imported for the processes that are forked)
import foretrain.launcher.train
import foretrain.trainer.plots
import foretrain.trainer.run.rank
import foretrain.verbs.app  # noqa: F401
