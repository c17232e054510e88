"""Runs of one rank whose files fail, as the tests of this folder use them."""

import os
import shutil
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from foretrain.data_pipeline.corpus.check import MIN_AGE_S
from foretrain.trainer.metrics import METRICS_FILE, read_metrics
from foretrain.trainer.run.exit_status import EXIT_DONE
from foretrain.trainer.run.folder import CHECKPOINTS
from tests.cli import Ended, called
from tests.file_faults.faults import STALL, Fault, FileFaults
from tests.file_faults.served import Server
from tests.processes import wait_until

STALL_S = float(os.environ.get("FORETRAIN_STALL_S", "0.1"))
CONFIG = "tiny.yaml"
"""The config of the runs, in their folder."""


class Runs:
    """Runs of one rank in a folder. Each begins as a copy of one that was stopped after step `base`."""

    def __init__(self, folder: Path, faults: FileFaults, server: Server, base: int) -> None:
        self.folder, self._faults, self._server = folder, faults, server
        self.run_dir = folder / "runs/x"
        # Else the check of the corpus is not kept, and every start would look at its files again.
        newest_s = max((path.stat().st_ctime for path in folder.glob("corpus/*")), default=0.0)
        wait_until(lambda: time.time() > newest_s + MIN_AGE_S, "files old enough for the record of their check")
        assert self._train(run_dir="runs/base", stop_after=base).status == EXIT_DONE
        assert self._train(run_dir="runs/calm").status == EXIT_DONE
        self.calm = self.losses(folder / "runs/calm")

    def reset_to_base(self) -> None:
        """Bring the run back to where it was stopped."""
        shutil.rmtree(self.run_dir, ignore_errors=True)
        shutil.copytree(self.folder / "runs/base", self.run_dir)

    def start(self, faults: Sequence[Fault] = (), stop_after: int | None = None) -> Ended:
        """Start the run, with faults, all of which it must meet."""
        with self._faults.having(faults):
            return self._train("runs/x", stop_after)

    def launch(self, faults: Sequence[Fault]) -> Ended:
        """Launch the run on this machine, with faults that end the command before its first start."""
        with self._faults.having(faults):
            return self._server.call("launch", CONFIG, "run_dir=runs/x", cwd=self.folder)

    def _train(self, run_dir: str, stop_after: int | None = None) -> Ended:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        rank = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        more = [] if stop_after is None else [f"train.stop_after={stop_after}"]
        return self._server.call("train", CONFIG, f"run_dir={run_dir}", *more, cwd=self.folder, **rank)

    def forget_checks(self) -> None:
        """Let the next start look at the complete corpus."""
        for path in (self.folder / "corpus").glob(".*.checked.json"):
            path.unlink()

    @staticmethod
    def losses(run_dir: Path) -> list[tuple[int, float]]:
        records = read_metrics(run_dir / METRICS_FILE)
        return [(record["step"], record["loss"]) for record in records if record["kind"] == "train"]

    def assert_complete(self) -> None:
        """Assert that the run is complete on the curve of one without faults, with sound checkpoints."""
        assert self.losses(self.run_dir) == self.calm
        assert called("checkpoint", "verify", "runs/x", cwd=self.folder).status == EXIT_DONE
        names = sorted(path.name for path in (self.run_dir / CHECKPOINTS).iterdir())
        assert names[-1] == f"step-{self.calm[-1][0]:08d}" and all(name.startswith("step-") for name in names), names


def one_line(ended: Ended) -> str:
    """The only error that a command printed."""
    (line,) = (line for line in ended.err.splitlines() if "error" in line)
    assert "Traceback" not in ended.err
    return line


def with_error(faults: Sequence[Fault], error: int) -> list[Fault]:
    return [replace(fault, error=error, stall_s=0.0 if error else STALL_S) for fault in faults]


def stalls(faults: Sequence[Fault]) -> list[Fault]:
    """A stall of STALL_S at each place of these faults, once."""
    each_once = {(fault.call, fault.pattern): replace(fault, count=1, is_done=False) for fault in reversed(faults)}
    return with_error([*each_once.values()], STALL)
