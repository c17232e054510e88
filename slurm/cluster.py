"""A real, private Slurm on this machine: several nodes, and nothing left behind.

By hand: `python -m slurm.cluster FOLDER`.
"""

import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from string import Template
from types import TracebackType

import psutil

from launcher.death import die_with_parent
from launcher.rendezvous import FIRST_PORT, NUM_PORTS, free_port

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "sinfo", "scancel")
INSTALL_HINT = "apt-get install slurm-wlm"
MAX_FOLDER_LENGTH = 70
"""Slurm's sockets lie in the folder, and Linux takes 107 bytes for the path of a socket."""
DAEMONS = ("slurmctld", "slurmscriptd", "slurmd")
STOP_S = 10.0
"""So long each step of stopping may take; KillWait is 5 s."""
MAX_GPUS = 64
"""As many /dev/tty devices there are."""


def missing() -> list[str]:
    """The Slurm programs that this machine lacks; INSTALL_HINT says where they come from."""
    return [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]


class Cluster:
    """A Slurm whose nodes are all idle when the context begins, and which is gone when it ends.

    Its nodes are n1, n2, ...; its partitions are `debug` (the default), `low` (which jobs of `debug` and `high`
    preempt, after 20 s of grace) and `high`. All its files are in `folder`, logs in `folder`/log.
    """

    def __init__(self, folder: Path, num_nodes: int = 4, cpus_per_node: int = 8, gpus_per_node: int = 8) -> None:
        """gpus_per_node: simulated ones, that no program can use.

        Raises ValueError for a path too long for sockets, and for numbers that no cluster has.
        """
        self.folder = folder.absolute()
        if len(str(self.folder)) > MAX_FOLDER_LENGTH or re.search(r"\s", str(self.folder)):
            raise ValueError(
                f"{self.folder}: a cluster's folder needs an absolute path of at most {MAX_FOLDER_LENGTH} characters "
                "and no spaces"
            )
        if num_nodes < 1 or cpus_per_node < 1 or not 0 <= gpus_per_node <= MAX_GPUS:
            raise ValueError(f"choose 1 node or more, 1 CPU or more a node, and 0 to {MAX_GPUS} GPUs a node")
        self.num_nodes, self.cpus_per_node, self.gpus_per_node = num_nodes, cpus_per_node, gpus_per_node
        self.name = ""
        """Another one at each start, so that its jobs' processes can be told from others'."""
        self.env: dict[str, str] = {}
        """The environment in which Slurm's commands speak to this cluster."""
        self.daemons: list[subprocess.Popen] = []
        """slurmctld, then the nodes' slurmd in their order."""

    def __enter__(self) -> "Cluster":
        """Start it. Raises RuntimeError where programs are missing, or the nodes do not come up."""
        if missing():
            raise RuntimeError(f"{', '.join(missing())}: not installed ({INSTALL_HINT})")
        self._write_config()
        try:
            self._start(["slurmctld", "-D", "-i"])
            for node in range(1, self.num_nodes + 1):
                self._start(["slurmd", "-D", "-N", f"n{node}"])
            self._wait_until_idle()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def run(self, *command: str, timeout_s: float = 60.0) -> str:
        """What a command prints, such as run("sbatch", "--parsable", "job.sh").

        Raises RuntimeError with what it printed where it fails, and subprocess.TimeoutExpired.
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
        """The state of a job: PENDING, RUNNING, COMPLETING, COMPLETED, FAILED, CANCELLED, TIMEOUT, PREEMPTED, ..."""
        return self.show(job_id)["JobState"]

    def restarts(self, job_id: str) -> int:
        """How often a job was started again."""
        return int(self.show(job_id)["Restarts"])

    def wait(self, job_id: str, *states: str, timeout_s: float = 30.0) -> str:
        """Wait until a job is in one of `states`, and return which. Raises TimeoutError that says what it is in."""
        deadline_s = time.monotonic() + timeout_s
        while (job := self.show(job_id))["JobState"] not in states:
            if time.monotonic() > deadline_s:
                raise TimeoutError(
                    f"job {job_id} is {job['JobState']} ({job['Reason']}) and not {' or '.join(states)} after "
                    f"{timeout_s:g} s\n{self._logs()}"
                )
            time.sleep(0.1)
        return job["JobState"]

    def processes(self) -> list[psutil.Process]:
        """All that runs of this cluster: its daemons, its jobs' slurmstepd, and what those started."""
        return [process for process in psutil.process_iter() if _belongs(process, self.folder, self.name)]

    def check(self) -> None:
        """Raise RuntimeError with the ends of the logs where a daemon has ended."""
        for daemon in self.daemons:
            if daemon.poll() is not None:
                raise RuntimeError(f"{daemon.args!r} ended with {daemon.returncode}\n{self._logs()}")

    def _write_config(self) -> None:
        for name in ("state", "spool", "log"):
            if (self.folder / "slurm.conf").exists():  # of an earlier cluster, whose jobs are none of this one's
                shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        ports = _free_ports(1 + self.num_nodes)
        self.name = f"test{ports[0]}x{os.getpid()}"
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
            "gpus": f"[0-{self.gpus_per_node - 1}]",
        }
        for name in ("slurm.conf", "gres.conf") if self.gpus_per_node else ("slurm.conf",):
            template = Path(__file__).with_name(f"{name}.in").read_text(encoding="utf-8")
            (self.folder / name).write_text(Template(template).substitute(values), encoding="utf-8")
        # Inside a Slurm job, the variables of that job would be taken for options.
        outer = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
        self.env = {**outer, "PATH": _path(), "SLURM_CONF": str(self.folder / "slurm.conf")}

    def _start(self, command: list[str]) -> None:
        with (self.folder / "log" / f"{'-'.join(command[::3])}.out").open("wb") as output:
            daemon = subprocess.Popen(
                command,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us: we stop it in order
                preexec_fn=partial(die_with_parent, os.getpid()),
            )
        self.daemons.append(daemon)

    def _wait_until_idle(self, timeout_s: float = 20.0) -> None:
        deadline_s = time.monotonic() + timeout_s
        nodes = "slurmctld does not answer"
        while time.monotonic() < deadline_s:
            self.check()
            with suppress(RuntimeError, subprocess.TimeoutExpired):
                nodes = self.run("sinfo", "-h", "-p", "debug", "-o", "%t %D", timeout_s=5)
            if nodes == f"idle {self.num_nodes}":
                return
            time.sleep(0.05)
        raise RuntimeError(f"the nodes of {self.folder} did not come up: {nodes}\n{self._logs()}")

    def _logs(self, num_lines: int = 10) -> str:
        """The ends of the daemons' logs."""
        ends = []
        for path in sorted((self.folder / "log").iterdir()):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            ends += [f"-- {path}", *lines[-num_lines:]] if lines else []
        return "\n".join(ends)

    def _stop(self) -> None:
        """Cancel the jobs, then stop the daemons, and kill what is left."""
        if self.daemons and all(daemon.poll() is None for daemon in self.daemons):  # else no one would answer
            with suppress(RuntimeError, subprocess.TimeoutExpired):
                self.run("scancel", "--me", timeout_s=5)
                _wait_for(lambda: not _of_jobs(self.processes()), timeout_s=STOP_S)
        for daemon in self.daemons:
            daemon.terminate()
        _wait_for(lambda: all(daemon.poll() is not None for daemon in self.daemons), timeout_s=STOP_S)
        _wait_for(self._kill_all, timeout_s=STOP_S)
        for daemon in self.daemons:
            daemon.wait(timeout=STOP_S)
        self.daemons.clear()

    def _kill_all(self) -> bool:
        """Kill what runs of this cluster, and return whether there was nothing."""
        processes = self.processes()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        return not processes


def _belongs(process: psutil.Process, folder: Path, name: str) -> bool:
    """Whether a process is one of the cluster's own, or was started by one of its jobs.

    A user's shell, or what was started from it, does not belong to it, even with SLURM_CONF set.
    """
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        environ = process.environ()
        if environ.get("SLURM_CLUSTER_NAME") == name:
            return True
        if not process.name().startswith("slurm"):
            return False
        # slurmstepd writes its title over its environment, but keeps the log of its node open.
        in_conf = environ.get("SLURM_CONF") == str(folder / "slurm.conf")
        return in_conf or any(Path(file.path).is_relative_to(folder / "log") for file in process.open_files())
    except psutil.Error:
        return False


def _of_jobs(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those that are no daemons."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.name() not in DAEMONS:
                found.append(process)
    return found


def _wait_for(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Ask until it holds, and return whether it did in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return True


def _free_ports(num_ports: int) -> list[int]:
    """Different ports that nothing listens on."""
    ports: list[int] = []
    seed = random.randrange(NUM_PORTS)  # jobs begin at their number: best far from those
    while len(ports) < num_ports:
        ports.append(free_port(seed))
        seed = ports[-1] - FIRST_PORT + 1
    return ports


def _path() -> str:
    """Where programs are looked for: the daemons are often in a folder that only root's PATH names."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a cluster until Ctrl-C or SIGTERM."""
    parser = ArgumentParser(prog="python -m slurm.cluster", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="for its configuration, state and logs")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--cpus-per-node", type=int, default=8)
    parser.add_argument("--gpus-per-node", type=int, default=8, help="simulated ones")
    asked = parser.parse_args(arguments)
    stop = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, lambda *_: stop.set())
    try:
        with Cluster(asked.folder, asked.nodes, asked.cpus_per_node, asked.gpus_per_node) as cluster:
            print(
                f"{cluster.num_nodes} nodes are idle; in another shell:\n"
                f"  export SLURM_CONF={cluster.folder / 'slurm.conf'}\n"
                "  sinfo; srun --nodes=2 hostname\n"
                "Ctrl-C stops it, and its jobs.",
                flush=True,
            )
            while not stop.wait(timeout=1.0):
                cluster.check()
    except (RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
