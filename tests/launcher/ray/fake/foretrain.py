"""Ranks that end as FAKE says, without importing torch: a word for each start, of `save`, `killed` or a status.

`sleep` sleeps; `save` sleeps until SIGTERM, notes in the run's folder that it saved, and exits with 85. `killed`: rank
0 is killed, and the others fail at once, as those do that lose a peer.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    folder = Path(sys.argv[2]).parent
    start = (folder / "starts.jsonl").read_text().count("{") - 1
    word, rank = os.environ["FAKE"].split(",")[start], os.environ["RANK"]
    print(f"rank {rank} of {os.environ['WORLD_SIZE']}: {word}", flush=True)
    print(f"GPUs: {os.environ.get('CUDA_VISIBLE_DEVICES')}", flush=True)
    if word in ("save", "sleep"):
        if word == "save":
            signal.signal(signal.SIGTERM, lambda signum, frame: save(folder, rank))
        subprocess.Popen(["sleep", "1000"])
        (folder / f"ready-{start}-{rank}").touch()
        time.sleep(1000)
    if word == "killed":
        time.sleep(0.5)
        if rank == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        sys.exit(1)
    sys.exit(int(word))


def save(folder: Path, rank: str) -> None:
    time.sleep(4)  # longer than Ray's own patience with a job that it stops
    (folder / f"saved-{rank}").touch()
    os._exit(85)


if __name__ == "__main__":
    main()
