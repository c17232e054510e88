"""What the driver tells in the job's log."""

import time


def say(words: str) -> None:
    """Print with the time of day, at once."""
    print(f"[{time.strftime('%H:%M:%S')}] {words}", flush=True)
