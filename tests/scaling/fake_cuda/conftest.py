"""Records of cases, which a process of each test worker runs: its imports take seconds."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from select import select

import pytest

from foretrain.scaling.fake_cuda.device import UnsupportedTorchError, check_torch
from foretrain.scaling.fake_cuda.record import RankRecord
from tests.required import not_here
from tests.scaling.fake_cuda.worker import Case

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 1200.0
"""How long a case may take; an idle machine takes seconds for most."""

RecordOf = Callable[[Case], RankRecord]


class RankError(AssertionError):
    """A rank has failed; the message is its traceback."""


def require_known_torch() -> None:
    """Skip the test, or let it fail where nothing may be skipped, if fake GPUs were not tried with this torch."""
    try:
        check_torch()
    except UnsupportedTorchError as error:
        not_here(str(error))


class Worker:
    """A process that runs one case after the other. It is started for the first one, and again if it has died."""

    def __init__(self, folder: Path) -> None:
        self._errors = folder / "stderr"
        self._process: subprocess.Popen[str] | None = None

    def run(self, case: Case) -> RankRecord | str:
        """The record of a case, or the traceback of its error."""
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        print(json.dumps(vars(case)), file=process.stdin, flush=True)
        assert select([process.stdout], [], [], TIMEOUT_S)[0], f"no record after {TIMEOUT_S:.0f} s: {case}"
        answer = process.stdout.readline()
        assert answer, f"the process has died at {case}:\n{self._errors.read_text(encoding='utf-8')}"
        result = json.loads(answer)
        return RankRecord.from_json(result["record"]) if "record" in result else str(result["error"])

    def stop(self) -> None:
        """End the process, if it was started."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            with self._errors.open("wb") as errors:
                self._process = subprocess.Popen(
                    [sys.executable, "-W", "ignore", "-m", "tests.scaling.fake_cuda.worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    cwd=ROOT,
                    env={**os.environ, "PYTHONPATH": str(ROOT)},
                )
        return self._process


@pytest.fixture(scope="session")
def record_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecordOf]:
    """record_of(case): the record of a case, which runs once. Raises RankError if the rank has failed."""
    require_known_torch()
    worker = Worker(tmp_path_factory.mktemp("fake_cuda"))
    found: dict[Case, RankRecord | str] = {}

    def record_of(case: Case) -> RankRecord:
        if case not in found:
            found[case] = worker.run(case)
        record = found[case]
        if isinstance(record, str):
            raise RankError(record)
        return record

    yield record_of
    worker.stop()
