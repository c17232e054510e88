"""One job of the data benchmark in a process of its own: write files, measure batches, or resume from a state.

`python -m benchmarks.data.child JOB.json` reads the job from the file, and replaces the file's content by the result.
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
import psutil

from benchmarks.data import scale
from benchmarks.data.contest import Contestant, Loader, Settings, SourceTokens, as_pair, open_source
from benchmarks.data.ours import CONTESTANTS
from benchmarks.data.peers import PEERS

ALL = [*CONTESTANTS, *PEERS]
SCALE_JOBS = {
    "scale_write": scale.write,
    "scale_resume": scale.resume,
    "scale_index": scale.index_memory,
}
MIB = 1 << 20


def main(path: Path) -> None:
    """Run the job of a file: its field `job` is the name, and the other fields are arguments."""
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
    """Write the files of a contestant, and return the seconds that it took."""
    start_s = time.perf_counter()
    contestant.write(open_source(folder.parent), folder, settings)
    return {"write_s": time.perf_counter() - start_s}


def measure(
    contestant: Contestant, folder: Path, settings: Settings, seconds: float, state_path: Path
) -> dict[str, Any]:
    """Return seconds of the start, and Mtok/s over full epochs after one epoch whose content is checked.

    Writes to `state_path` the state in the middle of the first epoch, and a digest of the next batch, for `resume`.
    """
    imported_mib = psutil.Process().memory_info().rss / MIB
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
    """The content of the batches of an epoch."""

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
        """Raise AssertionError unless it was an epoch of the source, apart from padding and incomplete batches."""
        num_tokens = self._num_batches * self._settings.batch_size * self._settings.seq_len
        expected = float(source.tokens.mean())
        lost = 2 * self._settings.batch_size * self._settings.seq_len  # two workers, each with an incomplete batch
        assert 0.98 * len(source.tokens) - lost <= num_tokens <= 1.05 * len(source.tokens), f"{num_tokens} tokens"
        assert 0.95 < self._sum / num_tokens / expected < 1.02, f"mean {self._sum / num_tokens}, not {expected}"


def throughput(loader: Loader, seconds: float) -> dict[str, float]:
    """Return Mtok/s by the clock and by CPU time, with each epoch timed from its first batch to its last.

    The first batch does not count, because the epochs of a real run are far longer. CPU time is the better measure if
    other programs run, but it leaves worker processes out.
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
    """Return the seconds until the batch after the middle of the first epoch, and whether it is that batch."""
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


if __name__ == "__main__":
    main(Path(sys.argv[1]))
