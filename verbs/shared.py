"""Arguments that several verbs take, and the messages for bad input."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

from foretrain.faults import is_full, is_passing
from foretrain.inspection import only_looking
from foretrain.printable import quotable
from foretrain.trainer.run.exit_status import EXIT_BAD_INPUT, EXIT_CONFIG, EXIT_FAILED, EXIT_HANG, EXIT_RESUME

ConfigArgument = Annotated[
    str, typer.Argument(metavar="CONFIG", help="The config of the run: a YAML file, or a preset such as runs/dry_run.")
]
TargetArgument = Annotated[
    str, typer.Argument(metavar="TARGET", help="A corpus (a folder or URL), or a config (a YAML file or preset).")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings that replace those of the config, such as optimizer.lr=1e-3."),
]

TensorParallelOption = Annotated[
    int,
    typer.Option(
        "--tp",
        metavar="N",
        min=1,
        help="Divide the model among N processes of this machine, by tensor parallelism: each on a GPU of its own, if "
        "there are any. The results are those of one process.",
    ),
]

BatchRuleOption = Annotated[
    Literal["fixed", "sqrt", "linear"],
    typer.Option(
        help="fixed: the batch of the config; sqrt: it grows as sqrt(tokens); linear: as the tokens, at the same "
        "number of steps. With both, lr grows as sqrt(batch)."
    ),
]
SweepOption = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Use the best values of this `foretrain sweep`, as `transfer` does."),
]
CoordCheckOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="The coord_check.json of `foretrain coord-check`. Default: SWEEP/coord_check.json."
    ),
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Use the values of the sweep although the evidence does not support it.")
]

EXIT_DIFFERS = 1
"""Exit status of a check that found a difference."""


@contextmanager
def bad_input(*, starts_a_run: bool = False) -> Iterator[None]:
    """End the command with one clear message, and no traceback, if the user's input is wrong.

    `starts_a_run`: after a fault that passes, the exit status asks for another start.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        status = report(error, starts_a_run=starts_a_run)
        if status is None:
            raise
        raise typer.Exit(status) from None


def report(error: ValueError | OSError, *, starts_a_run: bool = False) -> int | None:
    """Print what a user can do about an error, and return the exit status; None: the error is not the user's."""
    message = _message(error)
    if message is None or os.environ.get("FORETRAIN_TRACEBACK") == "1":
        return None
    Console(stderr=True).print(f"[bold red]error:[/] {escape(quotable(message))}", soft_wrap=True, highlight=False)
    return _status(error, starts_a_run)


@contextmanager
def looking(verb: str, *typed: str) -> Iterator[None]:
    """`bad_input` for a verb that only looks: it starts no command and imports no plugin that only a config names.

    `typed`: what the user has typed, which may name them.
    """
    with bad_input(), only_looking(verb, typed):
        yield


def _status(error: ValueError | OSError, starts_a_run: bool) -> int:
    """Exit status. A launcher learns from it whether another start, perhaps on another node, may succeed."""
    if "RANK" not in os.environ:
        # Not EXIT_RESUME: on one machine it says that somebody has asked the run to stop.
        return EXIT_HANG if starts_a_run and is_passing(error) else EXIT_BAD_INPUT
    if is_passing(error):
        return EXIT_RESUME  # the launcher starts it again, launch.max_starts times
    from foretrain.trainer.run.lock import InUseError

    return EXIT_FAILED if isinstance(error, OSError | InUseError) or is_full(error) else EXIT_CONFIG


def _message(error: ValueError | OSError) -> str | None:
    """The message for the user; None if the error is not the user's."""
    if isinstance(error, ValueError):
        return str(error)
    from foretrain.trainer.checkpoint.remote.requests import RemoteError

    if isinstance(error, RemoteError):
        return str(error)
    if is_passing(error):
        return (
            f"{error.filename or 'a file or server'}: {error.strerror}: the file system or the network has failed: "
            "run the same command again when it is back"
        )
    if is_full(error):
        return f"{error.filename or 'a file'}: {error.strerror}: free some space, or choose another path"
    if error.filename is not None:
        return f"cannot use {error.filename} ({error.strerror}): choose another path, or repair this one"
    return None


def check_writable(*paths: Path | None) -> None:
    """Raise OSError, which names the path, if a file cannot be written."""
    for path in paths:
        if path is not None:
            blocked = errno.EISDIR if path.is_dir() else 0 if path.parent.is_dir() else errno.ENOENT
            if not blocked and not os.access(path if path.exists() else path.parent, os.W_OK):
                blocked = errno.EACCES
            if blocked:
                raise OSError(blocked, os.strerror(blocked), str(path))
