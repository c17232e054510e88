"""A real, private Slurm of several nodes on this machine, of which nothing is left when it ends."""

import os
import pwd
import random
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from string import Template
from types import TracebackType

import psutil

from foretrain.launcher.parent_death import die_with_parent
from foretrain.launcher.private import write_private
from foretrain.launcher.rendezvous import FIRST_PORT, NUM_PORTS, free_port
from tests.slurm.cluster.processes import kill_cluster, of_cluster, of_jobs

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "sinfo", "scancel")
INSTALL_HINT = "apt-get install slurm-wlm"
MAX_FOLDER_LENGTH = 70
"""Slurm's sockets are in the folder, and Linux allows 107 bytes for the path of a socket."""
MAX_GPUS = 64
"""There are as many /dev/tty devices."""
START_S = 300.0
"""Seconds that the nodes may take to come up; a fraction of a second is usual."""
JOBS_END_S = 40.0
"""Seconds that jobs may take to end before they are killed; Slurm kills them KillWait after it asks them to end."""
DAEMONS_END_S = 10.0
"""Seconds that the daemons may take to end before they are killed."""
POLL_S = 0.05
TIMEOUT_S = 300.0
"""Seconds that a command or a change of state may take on a busy machine."""


def missing() -> list[str]:
    """The Slurm programs that this machine lacks; INSTALL_HINT says how to install them."""
    return [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]


class Cluster:
    """A Slurm whose nodes are idle at the start of the context, and of which nothing is left at its end.

    The nodes are n1, n2, ...; the partitions are `debug` (the default), `low`, whose jobs are preempted after 120 s of
    grace, and `high`. All files are in `folder`, logs in `folder`/log. Any user can have one, not only root.
    """

    def __init__(self, folder: Path, num_nodes: int = 4, cpus_per_node: int = 8, gpus_per_node: int = 8) -> None:
        """folder: empty, or that of an earlier cluster, whose state is lost. gpus_per_node: numbers without a device.

        Raises ValueError for a path that is too long for sockets, and for impossible numbers.
        """
        self.folder = folder.absolute()
        if len(str(self.folder)) > MAX_FOLDER_LENGTH or re.search(r"\s", str(self.folder)):
            raise ValueError(
                f"{self.folder}: choose a folder whose absolute path has no spaces and at most {MAX_FOLDER_LENGTH} "
                "characters: Slurm's sockets are in it"
            )
        if num_nodes < 1 or cpus_per_node < 1 or not 0 <= gpus_per_node <= MAX_GPUS:
            raise ValueError(f"choose 1 node or more, 1 CPU or more a node, and 0 to {MAX_GPUS} GPUs a node")
        self.num_nodes, self.cpus_per_node, self.gpus_per_node = num_nodes, cpus_per_node, gpus_per_node
        self.name = ""
        """A new name at each start, which marks the processes of its jobs."""
        self.env: dict[str, str] = {}
        """The environment in which Slurm's commands use this cluster."""
        self.daemons: list[subprocess.Popen] = []
        """slurmctld, then the slurmd of each node in order."""
        self._reaper: subprocess.Popen | None = None
        self._munged: subprocess.Popen | None = None

    def __enter__(self) -> "Cluster":
        """Start the cluster. Raises RuntimeError if programs are missing, or the nodes do not come up."""
        if missing():
            raise RuntimeError(f"{', '.join(missing())}: not installed ({INSTALL_HINT})")
        self._write_config()
        try:
            reaper = [
                sys.executable,
                "-m",
                "tests.slurm.cluster.processes",
                str(os.getpid()),
                str(self.folder),
                self.name,
            ]
            self._reaper = self._start("reaper", reaper)
            self._munged = self._start_munged()
            self.daemons.append(self._start("slurmctld", ["slurmctld", "-D", "-i"]))
            for node in range(1, self.num_nodes + 1):
                self.daemons.append(self._start(f"slurmd-n{node}", ["slurmd", "-D", "-N", f"n{node}"]))
            self._wait_until_idle()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def run(self, *command: str, timeout_s: float = TIMEOUT_S) -> str:
        """What a command prints, as in run("sbatch", "--parsable", "job.sh").

        Raises RuntimeError with what it printed if it fails, and subprocess.TimeoutExpired.
        """
        done = subprocess.run(
            command, env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout.strip()

    def show(self, job_id: str) -> dict[str, str]:
        """What `scontrol show job` says of a job: JobState, Restarts, Reason, ExitCode, ..."""
        words = self.run("scontrol", "show", "job", "-o", job_id).splitlines()[0].split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def state(self, job_id: str) -> str:
        """The state of a job: PENDING, RUNNING, COMPLETING, COMPLETED, FAILED, CANCELLED, TIMEOUT, ..."""
        return self.show(job_id)["JobState"]

    def restarts(self, job_id: str) -> int:
        """The number of times that a job was queued again."""
        return int(self.show(job_id)["Restarts"])

    def run_minutes(self, job_id: str) -> int:
        """The full minutes that a job has run."""
        clock = self.run("squeue", "--noheader", f"--jobs={job_id}", "--format=%M").rpartition("-")[2].split(":")
        return sum(60**place * int(number) for place, number in enumerate(reversed(clock))) // 60

    def wait(self, job_id: str, *states: str, timeout_s: float = TIMEOUT_S) -> str:
        """Wait until a job is in one of `states`, and return in which. Raises TimeoutError that says where it is."""
        deadline_s = time.monotonic() + timeout_s
        while (job := self.show(job_id))["JobState"] not in states:
            if time.monotonic() > deadline_s:
                raise TimeoutError(
                    f"job {job_id} is {job['JobState']} ({job['Reason']}), not {' or '.join(states)}, after "
                    f"{timeout_s:g} s\n{self.logs()}"
                )
            time.sleep(POLL_S)
        return job["JobState"]

    def wait_for_requeue(self, job_id: str, restarts: int = 1, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until a job is queued for its restart number `restarts`, and spare it most of Slurm's delay of 6 s.

        Raises TimeoutError.
        """
        deadline_s = time.monotonic() + timeout_s
        while self.restarts(job_id) < restarts:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"job {job_id} is {self.state(job_id)} and was not queued again\n{self.logs()}")
            time.sleep(POLL_S)
        if self.wait(job_id, "PENDING", "RUNNING", timeout_s=timeout_s) == "PENDING":
            with suppress(RuntimeError):  # it has started meanwhile
                # Not at once: in the second in which its credential was revoked, a job cannot start.
                self.run("scontrol", "update", f"JobId={job_id}", "StartTime=now+1")

    def check(self) -> None:
        """Raise RuntimeError with the ends of the logs if a daemon has ended."""
        for daemon in self.daemons:
            if daemon.poll() is not None:
                raise RuntimeError(f"{daemon.args!r} ended with {daemon.returncode}\n{self.logs()}")

    def logs(self, num_lines: int = 10) -> str:
        """The last lines of each daemon's log."""
        ends = []
        for path in sorted((self.folder / "log").iterdir()):
            if path.suffix == ".out" and path.with_suffix(".log").exists():
                continue  # says the same
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            ends += [f"-- {path}", *lines[-num_lines:]] if lines else []
        return "\n".join(ends)

    def processes(self) -> list[psutil.Process]:
        """All that runs of this cluster: its daemons, its jobs' slurmstepd, and what the jobs started."""
        return of_cluster(self.folder, self.name)

    def _write_config(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.folder.stat().st_uid != os.geteuid():
            raise RuntimeError(f"{self.folder} belongs to another user: choose a folder of yours")
        self.folder.chmod(0o700)  # its files decide what runs as this user
        if (self.folder / "slurm.conf").exists():
            for process in of_cluster(self.folder, "-"):
                raise RuntimeError(f"{self.folder}: a cluster runs there already (process {process.pid})")
            for name in ("state", "spool", "log"):
                shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in ("state", "spool", "log"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        ports = free_ports(1 + self.num_nodes)
        self.name = f"test{os.getpid()}x{ports[0]}"
        values = {
            "name": self.name,
            "host": socket.gethostname(),
            "user": pwd.getpwuid(os.getuid()).pw_name,
            "folder": self.folder,
            "port": ports[0],
            "nodes": f"n[1-{self.num_nodes}]",
            "node_ports": f"[{','.join(map(str, ports[1:]))}]",
            "cpus": self.cpus_per_node,
            "gres": f"Gres=gpu:{self.gpus_per_node}" if self.gpus_per_node else "",
            "gpus": f"[0-{self.gpus_per_node - 1}]" if self.gpus_per_node else "0",
        }
        for name in ("slurm.conf", "gres.conf"):
            template = Path(__file__).with_name(f"{name}.in").read_text(encoding="utf-8")
            (self.folder / name).write_text(Template(template).substitute(values), encoding="utf-8")
        # Inside a Slurm job, the variables of that job would be taken for options.
        outer = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
        self.env = {**outer, "PATH": _path(), "SLURM_CONF": str(self.folder / "slurm.conf")}

    def _start(self, name: str, command: list[str]) -> subprocess.Popen:
        is_daemon = name != "reaper"
        with (self.folder / "log" / f"{name}.out").open("wb") as output:
            return subprocess.Popen(
                command,
                env=self.env,
                cwd=None if is_daemon else Path(__file__).parents[3],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us: we stop it in order
                preexec_fn=partial(die_with_parent, os.getpid()) if is_daemon else None,
            )

    def _start_munged(self) -> subprocess.Popen:
        """Start the program that says which user a message is from. Its socket is there when this returns."""
        (self.folder / "munge.key").unlink(missing_ok=True)
        (self.folder / "munge.socket").unlink(missing_ok=True)
        write_private(self.folder / "munge.key", secrets.token_hex(64))
        files = [f"--{kind}-file={self.folder / 'munge'}.{kind}" for kind in ("key", "pid", "log", "seed")]
        # --force: it would want a folder that everybody may enter.
        command = ["munged", "--foreground", "--force", f"--socket={self.folder / 'munge.socket'}", *files]
        munged = self._start("munged", command)
        _wait_for(lambda: (self.folder / "munge.socket").exists() or munged.poll() is not None, START_S)
        if munged.poll() is not None:
            raise RuntimeError(f"munged ended with {munged.returncode}\n{self.logs()}")
        return munged

    def _wait_until_idle(self) -> None:
        deadline_s = time.monotonic() + START_S
        nodes = "slurmctld does not answer"
        while nodes != f"idle {self.num_nodes}":
            self.check()
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"the nodes did not come up within {START_S:g} s: {nodes}\n{self.logs()}")
            time.sleep(POLL_S)
            with suppress(RuntimeError, subprocess.TimeoutExpired):
                nodes = self.run("sinfo", "-h", "-p", "debug", "-o", "%t %D", timeout_s=30)

    def _stop(self) -> None:
        """Cancel the jobs, then stop the daemons, and kill what is left. Raises RuntimeError if that fails."""
        if self.daemons and all(daemon.poll() is None for daemon in self.daemons):  # else no one would answer
            with suppress(RuntimeError, subprocess.TimeoutExpired):
                self.run("scancel", "--me", timeout_s=30)
                # The jobs end first: a slurmd would keep trying to report their end to slurmctld.
                _wait_for(lambda: not of_jobs(self.folder, self.name) and not self.run("squeue", "-h"), JOBS_END_S)
        for daemon in self.daemons:
            daemon.terminate()
        _wait_for(lambda: all(daemon.poll() is not None for daemon in self.daemons), DAEMONS_END_S)
        left = kill_cluster(self.folder, self.name)
        for helper in (self._munged, self._reaper):
            if helper is not None:
                helper.kill()
                helper.wait()
        if left:
            raise RuntimeError(f"these do not end: {left}")
        for daemon in self.daemons:
            daemon.wait()
        self.daemons.clear()


def _wait_for(condition: Callable[[], bool], timeout_s: float) -> None:
    """Wait until a condition holds, or the time is over."""
    deadline_s = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(POLL_S)


def free_ports(num_ports: int) -> list[int]:
    """Different ports that nothing listens on."""
    ports: list[int] = []
    seed = random.randrange(NUM_PORTS)  # jobs start their search at their id, and so at the lowest port
    while len(ports) < num_ports:
        ports.append(free_port(seed))
        seed = ports[-1] - FIRST_PORT + 1
    return ports


def _path() -> str:
    """PATH with the folders in which the daemons are often installed, and which only root's PATH has."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
