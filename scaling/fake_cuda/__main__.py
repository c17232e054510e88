"""`python -m foretrain.scaling.fake_cuda CONFIG --rank R [KEY=VALUE ...]`: what one rank does on a fake GPU.

A program of its own, since torch works on fake GPUs for the rest of the process.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from foretrain.configs import load as configs
from foretrain.scaling.fake_cuda.device import UnsupportedTorchError
from foretrain.scaling.fake_cuda.rank import run_rank
from foretrain.scaling.fake_cuda.report import report


def main(arguments: Sequence[str]) -> int:
    """Run one rank, and print or write its record. Returns the exit status: 2 if the rank is refused."""
    parser = argparse.ArgumentParser(prog="python -m foretrain.scaling.fake_cuda", description=__doc__)
    parser.add_argument("config", help="a YAML file or a preset, such as runs/llama_7b_a100")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings that replace those of the config")
    parser.add_argument("--rank", type=int, default=0, help="number of the rank (0)")
    parser.add_argument("--steps", type=int, default=2, help="number of training steps (2)")
    parser.add_argument("--no-checkpoint", action="store_true", help="do not save and load a checkpoint")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the complete record into this file")
    options = parser.parse_intermixed_args(arguments)
    try:
        config = configs.load(options.config, options.overrides)
        record = run_rank(config, options.rank, options.steps, checkpoint=not options.no_checkpoint)
    except (ValueError, UnsupportedTorchError) as error:
        print(error, file=sys.stderr)
        return 2
    if options.json is not None:
        options.json.write_text(record.to_json(indent=1), encoding="utf-8")
    print(report(record))
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)  # libraries that believe in a GPU end last, and one of them crashed there once
