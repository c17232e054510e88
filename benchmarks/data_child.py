"""One contestant in a process of its own: write its files, measure its batches, or resume from a state.

`python -m benchmarks.data_child JOB.json` reads what to do from the file and writes what came of it back into it.
"""

import hashlib
import importlib
import json
import pickle
import sys
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import data_scale
from benchmarks.data_contest import Contestant, Loader, Settings, SourceTokens, as_pair, open_source
from benchmarks.data_ours import CONTESTANTS
from benchmarks.data_peers import PEERS

ALL = [*CONTESTANTS, *PEERS]
SCALE_JOBS = {
    "scale_write": data_scale.write,
    "scale_resume": data_scale.resume,
    "scale_index": data_scale.index_memory,
}
MIB = 1 << 20


def main(path: Path) -> None:
    """Do one job: its name is `job`, and the other fields are its arguments."""
    fields = json.loads(path.read_text())
    folder = Path(fields["folder"])
    settings = Settings(fields["seq_len"], fields["batch_size"], fields["num_workers"])
    if fields["job"] in SCALE_JOBS:
        path.write_text(json.dumps(SCALE_JOBS[fields["job"]](folder, settings)))
        return
    contestant = next(each for each in ALL if each.name == fields["contestant"])
    for module in contestant.modules:
        importlib.import_module(module)
    match fields["job"]:
        case "write":
            result = write(contestant, folder, settings)
        case "measure":
            result = measure(contestant, folder, settings, fields["seconds"], Path(fields["state"]))
        case job:
            assert job == "resume", f"there is no job {job}"
            result = resume(contestant, folder, settings, Path(fields["state"]))
    path.write_text(json.dumps(result))


def write(contestant: Contestant, folder: Path, settings: Settings) -> dict[str, Any]:
    start_s = time.perf_counter()
    contestant.write(open_source(folder.parent), folder, settings)
    return {"write_s": time.perf_counter() - start_s}


def measure(
    contestant: Contestant, folder: Path, settings: Settings, seconds: float, state_path: Path
) -> dict[str, Any]:
    """The start, one epoch to warm up and to check what is in it, and then Mtok/s over whole epochs.

    The state at the middle of the first epoch, and what comes after it, is left for `resume`.
    """
    imported_mib = rss_mib()
    start_s = time.perf_counter()
    loader = contestant.open(folder, settings, None)
    batches = loader.epoch()
    first = next(batches)
    start_s = time.perf_counter() - start_s

    source = open_source(folder.parent)
    middle = max(1, source.num_samples(settings.seq_len) // settings.batch_size // 2)
    seen = _Seen(settings)
    seen.add([first])
    seen.add(islice(batches, middle - 1))
    state = None if loader.state is None else loader.state()
    after = next(batches)
    seen.add([after])
    state_path.write_bytes(pickle.dumps((state, middle, _digest(after))))
    seen.add(batches)
    seen.check(source)
    return {"start_s": start_s, **throughput(loader, seconds), "imported_mib": imported_mib}


class _Seen:
    """What was in the batches of an epoch."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._num_batches = self._sum = 0

    def add(self, batches: Iterable[Any]) -> None:
        shape = (self._settings.batch_size, self._settings.seq_len)
        for batch in batches:
            tokens, targets = map(np.asarray, as_pair(batch))
            assert tokens.shape == targets.shape == shape, f"{tokens.shape} and {targets.shape}, not {shape}"
            assert tokens.dtype == targets.dtype == np.int64, f"{tokens.dtype} and {targets.dtype}, not int64"
            self._num_batches += 1
            self._sum += int(tokens.sum())

    def check(self, source: SourceTokens) -> None:
        """Raise AssertionError unless it was an epoch of the tokens of the source, but for padding and what is left."""
        num_tokens = self._num_batches * self._settings.batch_size * self._settings.seq_len
        expected = float(source.tokens.mean())
        lost = 2 * self._settings.batch_size * self._settings.seq_len  # two workers, each with a batch that is not full
        assert 0.98 * len(source.tokens) - lost <= num_tokens <= 1.05 * len(source.tokens), f"{num_tokens} tokens"
        assert 0.95 < self._sum / num_tokens / expected < 1.02, f"mean {self._sum / num_tokens}, not {expected}"


def throughput(loader: Loader, seconds: float) -> dict[str, float]:
    """Mtok/s, each epoch being timed from its first batch to its last: in a real run epochs are far longer.

    Tokens per second of CPU time tell more where other programs run, but leave worker processes out.
    """
    num_tokens, elapsed_s, cpu_s = 0, 0.0, 0.0
    while elapsed_s < seconds:
        batches = loader.epoch()
        next(batches)
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        for batch in batches:
            tokens, targets = as_pair(batch)
            num_tokens += tokens.shape[0] * targets.shape[1]
        elapsed_s += time.perf_counter() - start_s
        cpu_s += time.process_time() - start_cpu_s
    return {"mtok_s": num_tokens / elapsed_s / 1e6, "mtok_cpu_s": num_tokens / cpu_s / 1e6}


def resume(contestant: Contestant, folder: Path, settings: Settings, state_path: Path) -> dict[str, Any]:
    """The time from nothing to the batch that follows the middle of the first epoch."""
    state, middle, expected = pickle.loads(state_path.read_bytes())
    start_s = time.perf_counter()
    loader = contestant.open(folder, settings, state)
    batches = loader.epoch()
    if state is None:
        next(islice(batches, middle - 1, None))
    batch = next(batches)
    resume_s = time.perf_counter() - start_s
    return {
        "resume_s": resume_s,
        "resumes_by": "skipping" if state is None else "state",
        "resumes_exactly": _digest(batch) == expected,
    }


def _digest(batch: Any) -> str:
    tokens, _ = as_pair(batch)
    return hashlib.sha256(np.ascontiguousarray(tokens).tobytes()).hexdigest()


def rss_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024 / MIB


if __name__ == "__main__":
    main(Path(sys.argv[1]))
