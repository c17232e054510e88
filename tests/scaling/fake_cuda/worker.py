"""Runs ranks on fake GPUs in a process of its own: each line of standard input is a case as JSON, and each line of
standard output its result.
"""

import gc
import json
import os
import sys
import traceback
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from foretrain.configs.load import load
from foretrain.scaling.fake_cuda.rank import run_rank


@dataclass(frozen=True)
class Case:
    """One rank of a preset with overrides, and the name of a fault of tests/scaling/fake_cuda/faults.py."""

    preset: str
    overrides: tuple[str, ...] = ()
    rank: int = 0
    num_steps: int = 1
    checkpoint: bool = False
    fault: str | None = None

    def __str__(self) -> str:
        return " ".join([self.preset, *self.overrides, f"rank={self.rank}", *([self.fault] if self.fault else [])])


def run(case: Case) -> dict[str, Any]:
    """The record of a case as JSON under "record", or the traceback of its error under "error"."""
    from tests.scaling.fake_cuda.faults import FAULTS

    try:
        with FAULTS[case.fault]() if case.fault else nullcontext():
            config = load(case.preset, case.overrides)
            return {"record": run_rank(config, case.rank, case.num_steps, checkpoint=case.checkpoint).to_json()}
    except Exception:  # noqa: BLE001 (the test of this case reports it)
        return {"error": traceback.format_exc()}


def main() -> None:
    """Run the cases on standard input until it ends."""
    with os.fdopen(os.dup(1), "w") as results:
        os.dup2(2, 1)  # what libraries print is no result
        gc.freeze()  # what was imported: DeepSpeed asks for many collections, which would walk through it
        for line in sys.stdin:
            case = json.loads(line)
            print(json.dumps(run(Case(**{**case, "overrides": tuple(case["overrides"])}))), file=results, flush=True)


if __name__ == "__main__":
    main()
    sys.stderr.flush()
    os._exit(0)  # libraries that believe in a GPU end last, and one of them crashed there once
