"""Runs a private Slurm until Ctrl-C: `python -m tests.slurm.cluster FOLDER`, from a checkout."""

import signal
import sys
import threading
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from tests.slurm.cluster.cluster import Cluster


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a cluster until Ctrl-C or SIGTERM."""
    parser = ArgumentParser(prog="python -m tests.slurm.cluster", description="Run a private Slurm until Ctrl-C.")
    parser.add_argument("folder", type=Path, help="for its configuration, state and logs")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--cpus-per-node", type=int, default=8)
    parser.add_argument("--gpus-per-node", type=int, default=8, help="simulated ones")
    asked = parser.parse_args(arguments)
    stop = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, lambda *_: stop.set())
    try:
        with Cluster(asked.folder, asked.nodes, asked.cpus_per_node, asked.gpus_per_node) as cluster:
            print(
                f"{cluster.num_nodes} nodes are idle; in another shell:\n"
                f"  export SLURM_CONF={cluster.folder / 'slurm.conf'}\n"
                "  srun --nodes=2 hostname\n"
                "Ctrl-C stops it, and its jobs.",
                flush=True,
            )
            while not stop.wait(timeout=1.0):
                cluster.check()
    except (RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
