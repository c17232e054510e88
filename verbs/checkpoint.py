"""The verbs that look at the checkpoints of a run, and that remove them."""

from typing import Annotated

import typer
from rich.console import Console

from foretrain.verbs.shared import EXIT_DIFFERS, bad_input

TargetArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="The folder of a run, or one checkpoint (a folder such as step-00000100); or a URL of checkpoints.",
    ),
]


def ls(
    target: TargetArgument,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object for each checkpoint, in a line.")
    ] = False,
) -> None:
    """List the complete checkpoints of a run, oldest first: step, samples, size, time, and whether it has checksums.

    Example: `foretrain checkpoint ls runs/dry_run`
    """
    from foretrain.progress import print_line
    from foretrain.trainer.checkpoint import inspect, inspect_view
    from foretrain.trainer.checkpoint.places import place_of

    with bad_input():
        place = place_of(target)
        checkpoints = inspect.read_all(inspect.checkpoints_of(place))
        leftovers = {} if as_json else {kind: inspect.leftovers(place, kind) for kind in inspect.LEFTOVERS}
    if as_json:
        for checkpoint in checkpoints:
            typer.echo(inspect_view.json_line(checkpoint))
        return
    console = Console()
    if checkpoints:
        inspect_view.print_checkpoints(checkpoints, console)
    else:
        print_line(f"{target} has no complete checkpoint", console=console)
    inspect_view.print_leftovers(leftovers, console)


def verify(target: TargetArgument) -> None:
    """Check every byte of each checkpoint of a run, or of one checkpoint, against its checksums.

    Exits with 1 if any is damaged. A checkpoint that was written by an earlier version has no checksums.

    Example: `foretrain checkpoint verify runs/dry_run`
    """
    from foretrain.trainer.checkpoint.inspect import Soundness, check, checkpoints_of
    from foretrain.trainer.checkpoint.places import place_of

    has_damage = False
    with bad_input():
        paths = checkpoints_of(place_of(target))
        for path in paths:
            verdict = check(path, progress=True)
            typer.echo(verdict)
            has_damage |= verdict.soundness is Soundness.DAMAGED
    if not paths:
        typer.echo(f"{target} has no complete checkpoint")
    raise typer.Exit(EXIT_DIFFERS if has_damage else 0)


def prune(
    run_dir: Annotated[str, typer.Argument(metavar="RUN", help="The folder of a run, which must not be running.")],
    keep: Annotated[int, typer.Option(help="Number of the newest checkpoints to keep, at least 1.")],
    every: Annotated[int, typer.Option(help="Keep those at multiples of this many steps too; 0: none.")] = 0,
    best: Annotated[int, typer.Option(help="Keep this many with the least held-out loss too; 0: none.")] = 0,
    damaged: Annotated[
        bool, typer.Option("--damaged", help="Remove also what was kept aside as damaged (damaged-*).")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
) -> None:
    """Remove old checkpoints of a run, and what interrupted saves have left.

    The newest checkpoint that is sound is never removed: checkpoints are read from the newest on, until one is sound.

    Example: `foretrain checkpoint prune runs/dry_run --keep 2 --every 1000 --dry-run`
    """
    from foretrain.trainer.checkpoint.inspect_view import format_size
    from foretrain.trainer.checkpoint.places import place_of
    from foretrain.trainer.checkpoint.prune import prune as remove

    with bad_input():
        pruned = remove(
            place_of(run_dir), keep=keep, every=every, best=best, with_damaged=damaged, dry_run=dry_run, progress=True
        )
    for note in pruned.notes:
        typer.echo(note)
    for name, size_bytes in pruned.sizes.items():
        typer.echo(f"{'would remove' if dry_run else 'removed'} {name}: {format_size(size_bytes)}")
    room = format_size(sum(pruned.sizes.values()))
    typer.echo(f"this {'would give' if dry_run else 'gave'} back {room}" if pruned.sizes else "nothing to remove")
