"""Ranks that end as FAKE says, without torch: a word for each start, of `sleep`, `deaf` (to SIGTERM) or a status.

A/B: rank 0 does A, and the others B. 137 is a rank 0 that is killed, and others that fail as those do that lose a peer.
Each rank prints its environment.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path


def main() -> None:
    start = (Path(sys.argv[2]).parent / "starts.jsonl").read_text().count("{") - 1
    words = os.environ["FAKE"].split(",")[start].split("/")
    word = words[0 if os.environ["RANK"] == "0" else -1]
    print(json.dumps(dict(os.environ)), flush=True)
    if word == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if word in ("sleep", "deaf"):
        time.sleep(100)
    if word == "137":
        if os.environ["RANK"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.5)
        word = "1"
    sys.exit(int(word))


if __name__ == "__main__":
    main()
