"""The check that a GPU's peak of memory is what fake GPUs foresee."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.context import ROOT, CheckFailedError, Context
from benchmarks.gpu.training import LARGE_MODEL, QUIET, large, train
from foretrain.configs import load as configs

FORESEEN = ROOT / "benchmarks" / "results" / "gpu_foreseen.json"
TOLERANCE = 0.15
"""Fake GPUs do not see the workspaces of cuBLAS, and what kernels take for themselves."""
AGAIN = "run `python -m benchmarks.gpu.foresee` on a machine with a torch without CUDA, and commit the file"


@dataclass(frozen=True)
class Foreseen:
    """The peak of memory of one rank of a config, computed without a GPU."""

    name: str
    overrides: list[str]
    """Settings that replace those of training.LARGE_MODEL and training.QUIET."""
    layout: str
    num_ranks: int
    rank: int
    peak_bytes: int
    """The most that tensors take while the rank is built and trains."""
    config_hash: str
    """The hash of the config without the settings of a machine."""

    def config_hash_now(self) -> str:
        """The hash of the config that these overrides make now."""
        return configs.config_hash(configs.load(LARGE_MODEL, [*QUIET, *self.overrides]))


def read_foreseen(path: Path = FORESEEN) -> list[Foreseen]:
    """The foreseen peaks. Raises CheckFailedError if the file is missing or is of other configs."""
    if not path.exists():
        raise CheckFailedError(f"{path.name} is missing: {AGAIN}")
    found = [Foreseen(**each) for each in json.loads(path.read_text(encoding="utf-8"))["foreseen"]]
    for each in found:
        if each.config_hash != each.config_hash_now():
            raise CheckFailedError(f"{path.name} has {each.name} with other settings than the preset has now: {AGAIN}")
    return found


def memory(context: Context) -> dict[str, Any]:
    """Train each foreseen config that has as many ranks as the machine, and compare the peaks."""
    measured: dict[str, Any] = {"tolerance": TOLERANCE}
    problems = []
    chosen = [each for each in read_foreseen() if each.num_ranks == context.num_ranks]
    if not chosen:
        raise CheckFailedError(f"{FORESEEN.name} has no config of {context.num_ranks} ranks: {AGAIN}")
    for each in chosen:
        run_dir = context.folder / "run"
        steps = train(context, run_dir, large(context, each.overrides))
        shutil.rmtree(run_dir)  # its checkpoint has more than a gigabyte
        entry = compared(each.peak_bytes / 2**30, max(step["device_peak_gib"] for step in steps))
        measured[each.name] = entry
        if abs(entry["difference"]) > TOLERANCE:
            problems.append(f"{each.name}: {entry['measured_gib']} GiB, foreseen were {entry['foreseen_gib']} GiB")
    if problems:
        raise CheckFailedError("; ".join(problems), measured)
    return measured


def compared(foreseen_gib: float, measured_gib: float) -> dict[str, float]:
    """Both peaks, and by which share of the foreseen one the measured one is larger."""
    return {
        "foreseen_gib": round(foreseen_gib, 3),
        "measured_gib": round(measured_gib, 3),
        "difference": round(measured_gib / foreseen_gib - 1, 4),
    }
