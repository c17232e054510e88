"""Tests of the signals that end a complete run."""

import subprocess
import sys

from foretrain.trainer.run.exit_status import EXIT_DONE

SIGNALLED_INSIDE_DEL = """
import os, signal, time
from foretrain.trainer.run.stopping import ended_by_signals

class Freed:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0)

with ended_by_signals():
    Freed()
    print("what the signal raised was ignored", flush=True)
    while True:
        time.sleep(60)
"""

FAILS_INSIDE_DEL = """
from foretrain.trainer.run.stopping import ended_by_signals

class Freed:
    def __del__(self):
        raise ValueError("a failure of its own")

with ended_by_signals():
    Freed()
"""

SIGNALLED_INSIDE_A_LIBRARY = """
import os, signal
from foretrain.trainer.run.stopping import ended_by_signals

with ended_by_signals():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except BaseException:
        raise AttributeError("a failure of the library")
"""

FAILS = """
from foretrain.trainer.run.stopping import ended_by_signals

with ended_by_signals():
    raise AttributeError("a failure of its own")
"""

SIGNALLED_AFTER_THE_BLOCK = """
import os, signal
from foretrain.trainer.run.stopping import ended_by_signals

with ended_by_signals():
    pass
os.kill(os.getpid(), signal.SIGTERM)
raise SystemExit(7)
"""


def run(script: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False)


def test_a_signal_whose_exception_python_ignores_still_ends_a_complete_run_without_a_traceback() -> None:
    ended = run(SIGNALLED_INSIDE_DEL)
    assert (ended.returncode, ended.stdout) == (EXIT_DONE, "what the signal raised was ignored\n"), ended.stderr
    assert not ended.stderr


def test_other_failures_that_python_ignores_are_still_reported() -> None:
    assert "ValueError: a failure of its own" in run(FAILS_INSIDE_DEL).stderr


def test_a_signal_after_the_last_output_leaves_the_exit_status() -> None:
    assert run(SIGNALLED_AFTER_THE_BLOCK).returncode == 7


def test_a_signal_whose_exception_a_library_replaces_ends_a_complete_run_without_a_traceback() -> None:
    ended = run(SIGNALLED_INSIDE_A_LIBRARY)
    assert (ended.returncode, ended.stderr) == (EXIT_DONE, "")


def test_a_failure_without_a_signal_is_a_failure() -> None:
    ended = run(FAILS)
    assert ended.returncode == 1 and "AttributeError: a failure of its own" in ended.stderr
