"""The processes of the contestants, seen from the benchmark: start, order, answer, end."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.train.contestants import Contestant
from benchmarks.train.task import Task

Record = dict[str, Any]
ROOT = Path(__file__).parents[2]
LAST_LINES = 4
TIMEOUT_S = 1800.0
"""Seconds that a contestant has for its steps; compilation of a large model takes minutes."""


class WorkerError(Exception):
    """A contestant has failed, or cannot run here; `record` says why, as `failed` or `missing`."""

    def __init__(self, record: Record) -> None:
        super().__init__(str(record))
        self.record = record


class Worker:
    """A contestant in a process of its own, which is stopped (SIGSTOP) whenever it has nothing to do: threads of a
    library that wait would take time from the others."""

    def __init__(self, contestant: Contestant, task: Task, shared: Path, own: Path, peers: Path | None) -> None:
        """Start the process, and wait until the contestant is ready. Raises WorkerError if it is never."""
        own.mkdir(parents=True)
        self._log = own.with_suffix(".log")
        # Compilation is measured from the beginning, and in this process alone.
        environment = {
            "OMP_NUM_THREADS": str(task.threads),
            "TORCHINDUCTOR_CACHE_DIR": str(own / "inductor"),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "TMPDIR": str(own),
            # transformers' Trainer would divide the batch among all of them.
            "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0],
        }
        self._started_s = time.perf_counter()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.train.worker"],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        paths = {"shared": str(shared), "own": str(own), "peers": str(peers.absolute()) if peers else ""}
        ready = self._ask({"contestant": asdict(contestant), "task": task.to_dict(), **paths})
        self.ready_s = time.perf_counter() - self._started_s
        """Seconds until the model was built."""
        self.initial_norm: float = ready["weights_norm"]
        first = self.steps(1)
        self.first_step_s = time.perf_counter() - self._started_s
        """Seconds from the start of the process to the end of the first step."""
        self.losses, self.grad_norms = first["losses"], first["grad_norms"]

    def steps(self, count: int, **more: Any) -> Record:
        """What the pace says of some more steps. Raises WorkerError if the process fails."""
        self._process.send_signal(signal.SIGCONT)
        answer = self._ask({"steps": count, **more})
        self._process.send_signal(signal.SIGSTOP)
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # what was not sent any more
                pipe.close()
        self._process.wait()

    def _ask(self, order: Record) -> Record:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        with suppress(BrokenPipeError):  # it has ended, and the log says why
            stdin.write((json.dumps(order) + "\n").encode())
            stdin.flush()
        is_late = not select.select([stdout], [], [], TIMEOUT_S)[0]
        line = b"" if is_late else stdout.readline()
        answer: Record = json.loads(line) if line.endswith(b"\n") else {"failed": self._reason(is_late)}
        if "failed" in answer or "missing" in answer:
            self.close()
            raise WorkerError(answer)
        return answer

    def _reason(self, is_late: bool) -> str:
        """Why there is no answer: a process that has not ended is late."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        status = f"no answer within {TIMEOUT_S:g} s" if is_late else f"exit status {self._process.wait()}"
        return " | ".join([status, *lines[-LAST_LINES:]])
