"""Jobs for the tests, given to a real cluster."""

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foretrain.launcher.job import Job, code_variables
from foretrain.launcher.ray import submission
from tests.processes import wait_until

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

ROOT = Path(__file__).parents[3]
FAKE = ROOT / "tests/launcher/fake_ranks"


@dataclass
class Ended:
    """A job that has ended."""

    state: str
    status: int | None
    log: str


def make_job(folder: Path, num_nodes: int = 2, ranks_per_node: int = 1, *, fake: str = "", **changes: Any) -> Job:
    """A job in a new folder; fake: what its ranks do at each start, in place of a training."""
    run_dir = folder / "run"
    run_dir.mkdir()
    (folder / "foretrain.py").write_text("raise SystemExit('a module of the user took the place of the package')")
    env = {"PATH": "/usr/bin:/bin", **code_variables(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    if fake:
        env |= {"PYTHONPATH": f"{FAKE}:{ROOT}", "FAKE": fake}
    env["TEST_FOLDER"] = str(folder)  # so that a process that is left over is found
    job = Job(
        name="run",
        run_dir=str(run_dir),
        workdir=str(folder),
        python=sys.executable,
        num_nodes=num_nodes,
        ranks_per_node=ranks_per_node,
        cpus_per_rank=1,
        gpus_per_node=0,
        env=tuple(sorted(env.items())),
        max_starts=3,
    )
    return replace(job, **changes)


def written(job: Job, submission_id: str, wait_s: float = 60.0) -> str:
    """The text of the job, and in its folder too."""
    text = submission.render(job, submission_id, wait_s)
    (job.folder / submission.SCRIPT).write_text(text)
    return text


def submit(job: Job, address: str, wait_s: float = 60.0) -> str:
    """Give a job to the cluster, under an id of its own."""
    submission_id = f"run-{time.monotonic_ns()}"
    assert submission.submit(job, written(job, submission_id, wait_s), address) == submission_id
    return submission_id


def end(client: "JobSubmissionClient", submission_id: str) -> Ended:
    """Wait for the end of a job."""

    def ended() -> bool:
        time.sleep(0.1)
        return client.get_job_status(submission_id).is_terminal()

    wait_until(ended, f"end of {submission_id}")
    info = client.get_job_info(submission_id)
    return Ended(info.status.value, info.driver_exit_code, client.get_job_logs(submission_id))
