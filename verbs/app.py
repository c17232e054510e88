"""The command line: which verbs there are, and the standard streams that they print on."""

import io
import os
import sys

import typer

from foretrain.verbs import data, scaling, training

app = typer.Typer(
    help="Pretrain language models with data, tensor and pipeline parallelism: the same curve on every layout.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
corpus = typer.Typer(help="Look after a prepared corpus.", no_args_is_help=True)

app.command(rich_help_panel="Data")(data.prepare)
corpus.command()(data.verify)
corpus.command()(data.stats)
corpus.command()(data.peek)
app.add_typer(corpus, name="data", rich_help_panel="Data")

app.command(rich_help_panel="Training")(training.train)
app.command(rich_help_panel="Training")(training.launch)
app.command(rich_help_panel="Training")(training.verify)
app.command(rich_help_panel="Training")(training.generate)

app.command("mup", rich_help_panel="Scaling")(scaling.mup_table)
app.command("coord-check", rich_help_panel="Scaling")(scaling.coord_check)
app.command(rich_help_panel="Scaling")(scaling.sweep)
app.command(rich_help_panel="Scaling")(scaling.transfer)


def main() -> None:
    """The console script."""
    _mend_streams()
    app(prog_name="foretrain")


def _mend_streams() -> None:
    """Let this process and its ranks print where a standard stream is closed, or cannot show what a model says."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # Else the next file that is opened gets this number.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
            os.environ["PYTHONIOENCODING"] = f"{stream.encoding}:replace"
