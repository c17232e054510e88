"""Messages of a driver in the log of its job."""

import time


def say(words: str) -> None:
    """Print a message with the time of day, unbuffered."""
    print(f"[{time.strftime('%H:%M:%S')}] {words}", flush=True)
