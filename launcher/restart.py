"""Whether a run is started again, from how its last start ended and whether its starts make progress.

Batch scripts run `python -m foretrain.launcher.restart record-start|decide RUN_DIR ...`; Ray's driver calls the
functions. Every start is a line of RUN_DIR/starts.jsonl.
"""

import logging
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import TypeVar

from foretrain import records
from foretrain.faults import is_passing
from foretrain.trainer.goodput import facts
from foretrain.trainer.goodput.facts import Fact
from foretrain.trainer.run.exit_status import EXIT_CONFIG, EXIT_DONE, EXIT_HANG, EXIT_RESUME
from foretrain.trainer.run.folder import HANGS, newest_checkpoint, step_of

logger = logging.getLogger(__name__)

STARTS_FILE = "starts.jsonl"
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0, *[30.0] * 19)
"""Seconds before each further attempt to read or write the record of a job's starts after a fault that passes: ten
minutes in all. Without that record, nothing counts the starts of the job."""
RESTART_PAUSES_S = (2.0, 30.0, 120.0)
"""Seconds before another start after the first, the second and each later start in a row that met a fault and made no
progress: a server that restarts is back after them. Slurm itself waits before it starts a job again."""
Result = TypeVar("Result")
EXIT_SIGNAL = 128
"""A rank that signal n killed ends with this + n: not its program ended it, but its machine or its cluster."""


def patiently(work: Callable[[], Result]) -> Result:
    """What `work` returns; after a fault that passes it is tried again, for ten minutes. Raises OSError after that."""
    for pause_s in PAUSES_S:
        try:
            return work()
        except OSError as error:
            if not is_passing(error):
                raise
            logger.warning("%s: tries again in %g s", error, pause_s)
        time.sleep(pause_s)
    return work()


@dataclass(frozen=True)
class Start:
    """One start of a run."""

    job: str
    """The id of the job; a later job of the same run does not count this start."""
    step: int
    """The step of the newest checkpoint at the start; 0: there was none."""
    at_s: float = 0.0
    """Unix time."""


def was_cut_short(status: int) -> bool:
    """Whether ranks with this exit status were killed from outside, or hung."""
    return status == EXIT_HANG or status >= EXIT_SIGNAL


def asks_for_restart(status: int) -> bool:
    """Whether ranks with this exit status are started again: they asked for it, or did not end by themselves."""
    return status == EXIT_RESUME or was_cut_short(status)


def stuck(starts: Sequence[Start], job: str, step: int, max_starts: int) -> str | None:
    """Why another start of `job` from the checkpoint of `step` would be in vain; None if it may start."""
    in_vain = _num_in_vain(starts, job, step)
    if in_vain < max_starts:
        return None
    where = f"did not get beyond step {step:,}" if step else "did not reach a first checkpoint"
    return (
        f"{in_vain} starts in a row {where}, so the job gives up (launch.max_starts = {max_starts}): read "
        "the ranks' logs; a lead too short to save (launch.stop_lead_s), or a rank that dies each time, are likely"
    )


def _num_in_vain(starts: Sequence[Start], job: str, step: int) -> int:
    """The number of starts in a row, up to the last one, that did not get beyond a step."""
    return len([*takewhile(lambda start: (start.job, start.step) == (job, step), reversed(starts))])


def pause_s(run_dir: Path, job: str, status: int) -> float:
    """Seconds to wait before another start of `job`, whose ranks ended with `status`."""
    if status not in (EXIT_HANG, EXIT_RESUME):
        return 0.0
    try:
        in_vain = _num_in_vain(read_starts(run_dir), job, newest_step(run_dir))
    except OSError:  # the file system still fails
        return RESTART_PAUSES_S[-1]
    return RESTART_PAUSES_S[min(in_vain, len(RESTART_PAUSES_S)) - 1] if in_vain else 0.0


def read_starts(run_dir: Path) -> list[Start]:
    """The starts of a run so far."""
    return [Start(**entry) for entry in records.entries(run_dir / STARTS_FILE)]


def newest_step(run_dir: Path) -> int:
    """The step of the newest complete checkpoint; 0 if there is none."""
    newest = newest_checkpoint(run_dir)
    return step_of(newest) if newest else 0


def record_start(run_dir: Path, job: str, max_starts: int, *, queued: bool = False) -> str | None:
    """Record a start of `job`; or return why it must not start. `queued`: a cluster decides when the job starts.

    If the folder of the checkpoints cannot be read now, the step of the start before is recorded. A record that cannot
    be read or written because of a fault that passes is waited for.
    """
    try:
        return _record_start(run_dir, job, max_starts, queued)
    except OSError as error:
        return f"no start can be recorded ({error}): free some space, or repair the file system, and launch it again"


def _record_start(run_dir: Path, job: str, max_starts: int, queued: bool) -> str | None:
    starts = patiently(lambda: read_starts(run_dir))
    try:
        step = newest_step(run_dir)
    except OSError as error:
        step = starts[-1].step if starts else 0
        logger.warning("the newest checkpoint is not known (%s): this start counts as one from step %d", error, step)
    refusal = stuck(starts, job, step, max_starts)
    if refusal is None:
        at_s = round(time.time(), 3)
        patiently(lambda: records.append(run_dir / STARTS_FILE, asdict(Start(job, step, at_s))))
        try:
            facts.append(run_dir, Fact("start", at_s, job=job, queued=queued))
        except OSError as error:  # then the time until now counts for what was before
            logger.warning("the goodput of the run will lack this start (%s)", error)
    return refusal


def decide(run_dir: Path, job: str, max_starts: int, status: int) -> tuple[bool, str]:
    """Whether `job`, whose ranks ended with `status`, is started again, and the reason in words.

    If the folder of the checkpoints or the record of the starts cannot be read now, the job is started again: a server
    that does not answer must not end it.
    """
    if status == EXIT_DONE:
        return False, "done"
    if status == EXIT_CONFIG:
        return False, "refused: what the ranks' logs say has to change before it is started again"
    if not asks_for_restart(status):
        return False, f"a rank failed with status {status}: see the ranks' logs"
    known = {
        EXIT_RESUME: "stopped when asked to",
        EXIT_HANG: f"lost a server or a file system (see the logs), or hung (see {run_dir / HANGS})",
    }
    how = known.get(status, f"a rank was killed (status {status})")
    try:
        step, starts = newest_step(run_dir), read_starts(run_dir)
    except OSError as error:
        return True, f"{how}: starts again, although the newest checkpoint is not known ({error})"
    refusal = stuck(starts, job, step, max_starts)
    if refusal is not None:
        return False, refusal
    return True, f"{how}: resumes {f'from step {step:,}' if step else 'from the start'}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the reason in words; exit with 0 if the ranks may be started, else with 1."""
    parser = ArgumentParser(prog="foretrain.launcher.restart", description=__doc__)
    parser.add_argument("question", choices=["record-start", "decide"])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--job", required=True)
    parser.add_argument("--max-starts", type=int, required=True)
    parser.add_argument("--status", type=int, help="of the ranks that ended; for `decide`")
    asked = parser.parse_args(arguments)
    if asked.question == "record-start":
        refusal = record_start(asked.run_dir, asked.job, asked.max_starts, queued=True)
        if refusal is not None:
            print(refusal)
        return 0 if refusal is None else 1
    again, words = decide(asked.run_dir, asked.job, asked.max_starts, asked.status)
    print(words)
    return 0 if again else 1


if __name__ == "__main__":
    sys.exit(main())
