"""Sends what the trackers of a run lack of its metrics.jsonl, without a start of the run:

python -m foretrain.trainer.sinks.send RUN_FOLDER
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from foretrain.configs.load import load
from foretrain.configs.schema import Config
from foretrain.trainer.metrics import METRICS_FILE, iter_metrics
from foretrain.trainer.run.folder import CONFIG_FILE
from foretrain.trainer.run.lock import locked
from foretrain.trainer.sinks.base import Session
from foretrain.trainer.sinks.chosen import check_sinks, make_sinks
from foretrain.trainer.sinks.tracker import TrackerSink

WAIT_S = 3600.0
"""Seconds that one tracker may need."""


def send(run_dir: Path, config: Config) -> bool:
    """Send to every tracker that a config names what it lacks. Returns whether all of them have all then.

    Raises ValueError if a tracker cannot be used here, or metrics.jsonl is damaged, and OSError if it cannot be read.
    """
    check_sinks(config.train)
    step = max((record["step"] for record in iter_metrics(run_dir / METRICS_FILE)), default=0)
    tokens_per_step = config.train.global_batch_size * config.model.seq_len
    session = Session(config, run_dir, step, -(-config.train.num_tokens // tokens_per_step), tokens_per_step)
    sinks = [sink for sink in make_sinks(config.train) if isinstance(sink, TrackerSink)]
    for sink in sinks:
        sink.close_s = WAIT_S
        sink.open(session)
        sink.close()
        if sink.has_all:
            print(f"{sink.name} has all steps of {run_dir}", flush=True)
    return all(sink.has_all for sink in sinks)


def main(arguments: Sequence[str]) -> int:
    """Send what the trackers of a run lack. Returns the exit status: 1 if one lacks something still, 2 if refused."""
    parser = argparse.ArgumentParser(prog="python -m foretrain.trainer.sinks.send")
    parser.add_argument("run", type=Path, help="the folder of a run that does not train now")
    run_dir = parser.parse_args(arguments).run
    try:
        config = load(run_dir / CONFIG_FILE)
        with locked(run_dir):
            return 0 if send(run_dir, config) else 1
    except (OSError, ValueError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
