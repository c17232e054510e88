"""Run a job of the data benchmark in a process of its own, and watch the memory of that process and its children."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SAMPLE_EVERY_S = 0.05
TIMEOUT_S = 1800.0
LAST_LINES = 4
MIB = 1 << 20


def run_job(fields: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """Return the job's result, with the peak memory of its processes, or {"failed": why}."""
    path, log = scratch / "job.json", scratch / "job.log"
    path.write_text(json.dumps(fields))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.data_child", str(path)],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **_environment(scratch)},
        )
        peak = _watch(process)
    if process.returncode != 0:
        lines = log.read_text(errors="replace").strip().splitlines()
        return {"failed": f"exit status {process.returncode}: " + " | ".join(lines[-LAST_LINES:])}
    result: dict[str, Any] = json.loads(path.read_text())
    return {**result, **peak}


def _environment(scratch: Path) -> dict[str, str]:
    """Keep the peers' caches and temporary files in the scratch folder, and the peers from the network."""
    return {
        "TMPDIR": str(scratch),
        "HF_HOME": str(scratch / "hf"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "LITDATA_DISABLE_VERSION_CHECK": "1",
    }


def _watch(process: subprocess.Popen[bytes]) -> dict[str, float]:
    """Wait for the process, and return the largest sums over its tree seen meanwhile."""
    peak_kib = {"VmRSS": 0, "RssAnon": 0}
    end_s = time.monotonic() + TIMEOUT_S
    while process.poll() is None:
        for name, size in _tree_kib(process.pid, peak_kib).items():
            peak_kib[name] = max(peak_kib[name], size)
        if time.monotonic() > end_s:
            process.kill()
        time.sleep(SAMPLE_EVERY_S)
    return {"peak_mib": peak_kib["VmRSS"] * 1024 / MIB, "peak_anonymous_mib": peak_kib["RssAnon"] * 1024 / MIB}


def _tree_kib(pid: int, names: dict[str, int]) -> dict[str, int]:
    """The sums over a process and all that descend from it; one that has just ended counts as nothing."""
    sums = dict.fromkeys(names, 0)
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in _children(task)]
    except (FileNotFoundError, ProcessLookupError):
        return sums
    for line in lines:
        name, _, value = line.partition(":")
        if name in sums:
            sums[name] += int(value.split()[0])
    for child in children:
        for name, size in _tree_kib(child, names).items():
            sums[name] += size
    return sums


def _children(task: Path) -> list[str]:
    return (task / "children").read_text().split()
