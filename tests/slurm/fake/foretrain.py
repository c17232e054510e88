"""Ranks that end as FAKE says, at once and without torch: a word for each start, of `sleep` or a status.

137 is a rank 0 that is killed, and others that fail as those do that lose a peer. Each rank prints its environment.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path


def main() -> None:
    start = (Path(sys.argv[2]).parent / "starts.jsonl").read_text().count("{") - 1
    word = os.environ["FAKE"].split(",")[start]
    print(json.dumps(dict(os.environ)), flush=True)
    if word == "sleep":
        time.sleep(100)
    if word == "137":
        time.sleep(0.3)
        if os.environ["RANK"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        word = "1"
    sys.exit(int(word))


if __name__ == "__main__":
    main()
