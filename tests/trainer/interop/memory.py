"""A process that exports a checkpoint and prints the memory that it took, beyond what it had before, in bytes.

`python -m tests.trainer.interop.memory CHECKPOINT OUT [hoard]`; with `hoard`, it keeps every part that it has read.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from foretrain.trainer.interop import export as exporting


def peak_bytes(field: str) -> int:
    """A number of /proc/self/status: VmHWM is the largest resident memory so far, and VmRSS that of now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def hoard() -> None:
    """Plant a bug: no part of a tensor is given back."""
    parts_of, kept = exporting.parts_of, []

    def hoarding(*arguments: Any, **options: Any) -> Iterator[Any]:
        for part in parts_of(*arguments, **options):
            kept.append(part)
            yield part

    exporting.parts_of = hoarding


def main(checkpoint: str, small: str, out: str, *options: str) -> None:
    """Export a small model first, which imports everything and warms up allocators, then the other one."""
    if options:
        hoard()
    exporting.export(Path(small), Path(out) / "small")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    before = peak_bytes("VmRSS")
    exporting.export(Path(checkpoint), Path(out) / "large")
    print(peak_bytes("VmHWM") - before)


if __name__ == "__main__":
    main(*sys.argv[1:])
