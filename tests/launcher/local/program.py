"""A program that launches ranks, as the command line does: for the tests to run in many ways, and to kill.

Usage: program FOLDER FUNCTION [PRELOAD ...]; it notes in FOLDER/imports each time that it is imported.
"""

import sys
from pathlib import Path

from foretrain.launcher.local.run import run_local

with (Path(sys.argv[1]) / "imports").open("a") as file:
    file.write(f"{__name__}\n")


def main() -> int:
    folder, function, *preload = sys.argv[1:]
    return run_local(f"tests.launcher.local.workers:{function}", (folder,), 2, preload=preload)


if __name__ == "__main__":
    sys.exit(main())
