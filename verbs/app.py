"""The command line: its verbs, and the standard streams that they print on."""

import io
import os
import sys

import typer

from foretrain.verbs import budget, checkpoint, data, evaluation, interop, prediction, scaling, text, training
from foretrain.verbs.shared import report

app = typer.Typer(
    help="Pretrain language models with data, tensor, context and pipeline parallelism.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
corpus = typer.Typer(help="Check and inspect a prepared corpus.", no_args_is_help=True)
checkpoints = typer.Typer(help="List, verify and remove the checkpoints of a run.", no_args_is_help=True)

app.command(rich_help_panel="Data")(data.prepare)
corpus.command()(data.verify)
corpus.command()(data.stats)
corpus.command()(data.peek)
app.add_typer(corpus, name="data", rich_help_panel="Data")

app.command(rich_help_panel="Training")(training.train)
app.command(rich_help_panel="Training")(training.launch)
app.command(rich_help_panel="Training")(training.verify)
app.command(rich_help_panel="Training")(training.replay)
app.command(rich_help_panel="Training")(text.generate)
app.command("eval", rich_help_panel="Training")(evaluation.evaluate)
app.command(rich_help_panel="Training")(interop.export)
app.command("import", rich_help_panel="Training")(interop.import_)
checkpoints.command()(checkpoint.ls)
checkpoints.command()(checkpoint.verify)
checkpoints.command()(checkpoint.prune)
app.add_typer(checkpoints, name="checkpoint", rich_help_panel="Training")

app.command("mup", rich_help_panel="Scaling")(scaling.mup_table)
app.command("coord-check", rich_help_panel="Scaling")(scaling.coord_check)
app.command(rich_help_panel="Scaling")(scaling.sweep)
app.command(rich_help_panel="Scaling")(scaling.transfer)
app.command(rich_help_panel="Scaling")(prediction.ladder)
app.command(rich_help_panel="Scaling")(prediction.fit)
app.command(rich_help_panel="Scaling")(prediction.predict)
app.command(rich_help_panel="Scaling")(prediction.score)
app.command(rich_help_panel="Scaling")(prediction.tally)
app.command(rich_help_panel="Scaling")(budget.budget)


def main() -> None:
    """The console script."""
    repair_streams()
    try:
        app(prog_name="foretrain")
    except OSError as error:  # what is printed after the work cannot be written, as on a full disk
        status = report(error)
        if status is None:
            raise
        sys.exit(status)


def repair_streams() -> None:
    """Let this process and its ranks print if a standard stream is closed, or cannot encode a character."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # Without this, the next file that is opened would get the number of the standard stream.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:  # it was closed when Python started
            setattr(sys, name, os.fdopen(fd, mode, encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
            os.environ["PYTHONIOENCODING"] = f"{stream.encoding}:replace"
