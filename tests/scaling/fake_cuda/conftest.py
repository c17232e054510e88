"""Records of many cases, which share one process: its imports take seconds."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from foretrain.scaling.fake_cuda.device import UnsupportedTorchError, check_torch
from foretrain.scaling.fake_cuda.record import RankRecord
from tests.required import not_here
from tests.scaling.fake_cuda.worker import Case

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 1800.0
"""How long a process may take for all of its cases; an idle machine takes seconds for one."""

RecordOf = Callable[[Case], RankRecord]


class RankError(AssertionError):
    """A rank has failed; the message is its traceback."""


def require_known_torch() -> None:
    """Skip the test, or let it fail where nothing may be skipped, if fake GPUs were not tried with this torch."""
    try:
        check_torch()
    except UnsupportedTorchError as error:
        not_here(str(error))


def run_cases(cases: Sequence[Case], folder: Path) -> list[RankRecord | str]:
    """The record of each case, or the traceback of its error, from one fresh process."""
    require_known_torch()
    results = folder / "results.jsonl"
    command = [sys.executable, "-W", "ignore", "-m", "tests.scaling.fake_cuda.worker", str(results)]
    done = subprocess.run(
        command,
        input=json.dumps([vars(case) for case in cases]),
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = map(json.loads, results.read_text(encoding="utf-8").splitlines())
    return [RankRecord.from_json(result["record"]) if "record" in result else result["error"] for result in found]


@pytest.fixture(scope="module")
def record_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RecordOf:
    """record_of(case): the record of a case. Raises RankError if the rank has failed.

    All of the module's SHARED cases run in one process. A case that is not among them has a process of its own.
    """
    shared: Sequence[Case] = getattr(request.module, "SHARED", ())
    found: dict[Case, RankRecord | str] = {}

    def record_of(case: Case) -> RankRecord:
        if case not in found:
            cases = shared if case in shared else [case]
            found.update(zip(cases, run_cases(cases, tmp_path_factory.mktemp("ranks")), strict=True))
        record = found[case]
        if isinstance(record, str):
            raise RankError(record)
        return record

    return record_of
