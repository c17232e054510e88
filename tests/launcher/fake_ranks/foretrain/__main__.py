"""Ranks that end as FAKE says, without importing torch. FAKE has a word for each start; A/B: rank 0 does A, others B.

A number is an exit status. `sleep` sleeps, `deaf` sleeps and ignores SIGTERM, `parent` sleeps and has a child process.
`save` is a `parent` that saves at SIGTERM: it leaves a file in the run's folder, and exits with 85. `killed`: rank 0 is
killed, and the others fail, as ranks do that lose a peer; `killed first`: the others fail half a second later.
Each rank prints its environment, its place and its word.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    folder, rank = Path(sys.argv[2]).parent, os.environ["RANK"]
    start = (folder / "starts.jsonl").read_text().count("{") - 1
    words = os.environ["FAKE"].split(",")[start].split("/")
    word = words[0 if rank == "0" else -1]
    print(json.dumps(dict(os.environ)), flush=True)
    print(f"rank {rank} of {os.environ['WORLD_SIZE']}: {word}", flush=True)
    if word.startswith("killed"):
        if rank == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.5 if word == "killed first" else 0)
        sys.exit(1)
    if word.isdecimal():
        sys.exit(int(word))
    if word == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if word == "save":
        signal.signal(signal.SIGTERM, lambda signum, frame: save(folder, rank))
    if word in ("save", "parent"):
        subprocess.Popen(["sleep", "1000"])
    (folder / f"ready-{start}-{rank}").touch()
    time.sleep(1000)


def save(folder: Path, rank: str) -> None:
    time.sleep(4)  # longer than Ray's own patience with a job that it stops
    (folder / f"saved-{rank}").touch()
    os._exit(85)


if __name__ == "__main__":
    main()
