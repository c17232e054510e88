"""How the checkpoints of a run are shown: a table, or a JSON object for each."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime

from rich.console import Console
from rich.table import Table

from foretrain.progress import print_line
from foretrain.trainer.checkpoint.inspect import LEFTOVERS, Checkpoint
from foretrain.trainer.checkpoint.places import Place

_MIB, _GIB = 2**20, 2**30


def print_checkpoints(checkpoints: Sequence[Checkpoint], console: Console) -> None:
    """Print a table with a row for each checkpoint."""
    table = Table()
    for title in ("step", "samples", "size"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("written", "checksums"):
        table.add_column(title, no_wrap=True)
    for each in checkpoints:
        written = f"{_time(each):%Y-%m-%d %H:%M:%S}"
        checksums = "yes" if each.has_checksums else "no"
        table.add_row(
            _number(each.step), _number(each.samples_consumed), format_size(each.size_bytes), written, checksums
        )
    console.print(table)


def print_leftovers(leftovers: Mapping[str, Sequence[Place]], console: Console) -> None:
    """Print a line for each folder that is no checkpoint, with what it is, by its kind in LEFTOVERS."""
    for kind, paths in leftovers.items():
        for path in paths:
            print_line(f"{path.name}: {LEFTOVERS[kind]}", console=console)


def json_line(checkpoint: Checkpoint) -> str:
    """A checkpoint as a JSON object in one line. What is not known is null."""
    return json.dumps(
        {
            "path": str(checkpoint.path),
            "step": checkpoint.step,
            "samples_consumed": checkpoint.samples_consumed,
            "size_bytes": checkpoint.size_bytes,
            "written": _time(checkpoint).isoformat(timespec="seconds"),
            "has_checksums": checkpoint.has_checksums,
        }
    )


def format_size(num_bytes: int) -> str:
    """A size in GiB, or in MiB if it is less than one GiB."""
    return f"{num_bytes / _GIB:.3f} GiB" if num_bytes >= _GIB else f"{num_bytes / _MIB:.3f} MiB"


def _time(checkpoint: Checkpoint) -> datetime:
    return datetime.fromtimestamp(checkpoint.written_s).astimezone()


def _number(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"
