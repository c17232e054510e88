"""Submits jobs to a Ray cluster and asks for them, through its Jobs API. Ray is imported only to reach a cluster."""

import importlib.util
import json
import os
import shlex
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from foretrain.files import write_atomically
from foretrain.launcher.environment import changed_environment
from foretrain.launcher.job import Job
from foretrain.launcher.ray.token import headers_of

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

SCRIPT = "job.ray.json"
"""A file of the run's folder: the arguments of the submission, and what the driver reads."""
DRIVER = "foretrain.launcher.ray.driver"
STOP_GRACE_S = 300
"""Seconds that a job has to write its checkpoint when it is stopped."""
_REAP_S = 30
"""Seconds that the driver then has to end its ranks, before Ray kills the driver."""
_DRIVER_VARIABLES = ("LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONSAFEPATH")
"""The part of the ranks' environment that the driver and its actors need. Ray's dashboard shows it to everyone; the
rest may hold secrets, and the driver and the ranks get it from the file."""
_CONNECT_S = 5.0
# Ray's client would prefer either of them to the address that it is given.
_OTHER_CLUSTER = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
ACTIVE = ("PENDING", "RUNNING")


@dataclass(frozen=True)
class Request:
    """What the driver shall do."""

    submission_id: str
    job: Job
    wait_s: float
    """Seconds that it waits for nodes."""
    stop_grace_s: float
    """Seconds that ranks may take to stop."""


def render(job: Job, submission_id: str, wait_s: float, stop_grace_s: int = STOP_GRACE_S) -> str:
    """The text of SCRIPT: the arguments of JobSubmissionClient.submit_job under `submit`, the job, and its times."""
    script = str(job.folder / SCRIPT)
    env = {name: value for name, value in job.env if name in _DRIVER_VARIABLES}
    # Ray kills a driver that still runs this many seconds after it was asked to stop; the default is 3.
    env["RAY_JOB_STOP_WAIT_TIME_S"] = str(stop_grace_s + _REAP_S)
    submit = {
        "entrypoint": shlex.join([job.python, "-m", DRIVER, script]),
        "submission_id": submission_id,
        "runtime_env": {"env_vars": dict(sorted(env.items()))},
        "metadata": {"run_dir": job.run_dir, "name": job.name},
        "entrypoint_num_cpus": 0,
        "entrypoint_num_gpus": 0,
    }
    values = {"submit": submit, "wait_s": wait_s, "stop_grace_s": stop_grace_s, "job": json.loads(job.to_json())}
    return json.dumps(values, indent=1) + "\n"


def read(text: str) -> Request:
    """The request in a text that `render` made."""
    values = json.loads(text)
    job = Job.from_json(json.dumps(values["job"]))
    return Request(values["submit"]["submission_id"], job, values["wait_s"], values["stop_grace_s"])


def check() -> None:
    """Raise ValueError if Ray is not installed."""
    missing = [name for name in ("ray", "aiohttp", "requests") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"a launch on Ray needs {', '.join(missing)}: pip install 'foretrain[ray]'")


def submit(job: Job, text: str, address: str) -> str:
    """Submit a rendered job to the cluster at `address`, and return the id of the submission.

    Raises ValueError if the cluster cannot be reached, or refuses the job. Ray accepts no id twice, not even that of a
    job that has ended.
    """
    arguments = json.loads(text)["submit"]
    with connected(address) as client:
        try:
            return client.submit_job(**arguments)
        except RuntimeError as error:
            refusal = str(error)
    if "already exists" in refusal:
        raise ValueError(
            f"{job.run_dir}: the Ray cluster at {address} has a job {arguments['submission_id']} already: stop it, or "
            "delete it (ray job delete), or set another run_dir"
        )
    raise ValueError(f"the Ray cluster at {address} refuses the job: {_last_line(refusal)}")


def status(address: str, submission_id: str) -> str | None:
    """Ray's name for the state of a job, such as RUNNING; None if it knows no such job.

    Raises ValueError if the cluster cannot be reached.
    """
    with connected(address) as client:
        try:
            return client.get_job_status(submission_id).value
        except RuntimeError as error:
            if "404" in str(error) or "does not exist" in str(error):
                return None
            reason = _last_line(str(error))
            raise ValueError(f"Ray does not report the state of job {submission_id}: {reason}") from None


def stop(address: str, submission_id: str) -> None:
    """Ask a job to write a checkpoint and to end. Raises ValueError if the cluster cannot be reached."""
    with connected(address) as client:
        client.stop_job(submission_id)


def log(address: str, submission_id: str) -> str:
    """What a job's driver has printed. Raises ValueError if the cluster cannot be reached."""
    with connected(address) as client:
        return client.get_job_logs(submission_id)


def keep_log(address: str, submission_id: str, folder: Path) -> None:
    """Copy what a job's driver has printed to ray-ID.log in `folder`, if the cluster still has it."""
    with suppress(ValueError, RuntimeError, OSError):
        write_atomically(folder / f"ray-{submission_id}.log", log(address, submission_id))


def is_active(address: str, submission_id: str) -> bool:
    """Whether a job waits or runs. Raises ValueError if the cluster cannot be reached."""
    return status(address, submission_id) in ACTIVE


def command(address: str, *words: str) -> str:
    """The command `ray job WORDS` for the cluster at `address`. `ray job` prefers RAY_ADDRESS to its own --address."""
    return f"RAY_ADDRESS={shlex.quote(address)} ray job {shlex.join(words)}"


@contextmanager
def connected(address: str) -> Iterator["JobSubmissionClient"]:
    """Yield a client of the cluster at `address`, whatever cluster the environment names.

    Raises ValueError if Ray is not installed, or there is no such cluster.
    """
    check()
    host = urlsplit(address).hostname or ""
    changes: dict[str, str | None] = dict.fromkeys(_OTHER_CLUSTER)
    if _is_loopback(host):
        # Through a proxy, this name would mean the proxy's own machine.
        changes |= {name: f"{os.environ.get(name, '')},{host}".lstrip(",") for name in ("no_proxy", "NO_PROXY")}
    with changed_environment(changes):
        _check_reachable(address)
        from ray.job_submission import JobSubmissionClient

        try:
            client = JobSubmissionClient(address, headers=headers_of(address))
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise ValueError(_unreachable(address, _last_line(str(error)))) from None
        yield client


def _check_reachable(address: str) -> None:
    """Raise ValueError if nothing listens at `address`: Ray's client has no time limit of its own."""
    try:
        url = urlsplit(address)
        port = url.port or (443 if url.scheme == "https" else 80)
        behind_proxy = bool(os.environ.get(f"{url.scheme}_proxy")) and not _is_loopback(url.hostname or "")
        if not behind_proxy:
            socket.create_connection((url.hostname or "", port), timeout=_CONNECT_S).close()
    except (OSError, ValueError) as error:
        raise ValueError(_unreachable(address, str(error))) from None


def _unreachable(address: str, why: str) -> str:
    return (
        f"no Ray cluster answers at {address} ({why}): start it, or set launch.ray.address to the address of its "
        "dashboard"
    )


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host == "::1" or host.startswith("127.")


def _last_line(text: str) -> str:
    """The last line of a traceback, which has the message."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" .'\"")]
    return lines[-1] if lines else text
