"""Runs ranks on fake GPUs in a process of its own: cases as JSON on standard input, their results in a file."""

import json
import os
import sys
import traceback
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
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


def main(results: Path) -> None:
    """Run the cases on standard input, in their order."""
    cases = [Case(**{**case, "overrides": tuple(case["overrides"])}) for case in json.load(sys.stdin)]
    with results.open("w", encoding="utf-8") as file:
        for case in cases:
            print(json.dumps({"case": asdict(case), **run(case)}), file=file, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stderr.flush()
    os._exit(0)  # libraries that believe in a GPU end last, and one of them crashed there once
