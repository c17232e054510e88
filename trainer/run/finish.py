"""The output of a finished run: a plot of its losses, a table of results, and generated text."""

import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table
from rich.text import Text

from foretrain.faults import is_full, is_passing
from foretrain.files import write_atomically
from foretrain.printable import printable
from foretrain.trainer.goodput import facts
from foretrain.trainer.goodput.ledger import of_training
from foretrain.trainer.goodput.view import in_words
from foretrain.trainer.metrics import METRICS_FILE
from foretrain.trainer.model.size import ModelSize
from foretrain.trainer.recorded_curve import RecordedCurve
from foretrain.trainer.run.folder import SAMPLES_FILE, SUMMARY_FILE
from foretrain.trainer.run.setup import Run
from foretrain.trainer.run.summary import has_learned_nothing, layouts_of, summary
from foretrain.trainer.text.inference import continue_all, load_model

PLOT_FILE = "loss.png"
_SUMMARY_WIDTH = 100


@contextmanager
def surviving_faults(run: Run) -> Iterator[None]:
    """Let a fault that passes, or a full disk, be one line: the run is complete, and the same command shows its end."""
    try:
        yield
    except OSError as error:
        if not (is_passing(error) or is_full(error)):
            raise
        text = f"{run.run_dir} is complete, and its end cannot be shown ({error}): run the same command again to see it"
        print(printable(text), file=sys.stderr, flush=True)


def finish(run: Run) -> None:
    """Draw the plot, print and keep the table, and generate text, from the files in the run folder."""
    # Matplotlib takes half a second to import, which would delay each start of ranks.
    from foretrain.trainer.plots import loss_curve

    console = Console()
    unigram = run.data.unigram_loss
    metrics = run.run_dir / METRICS_FILE
    loss_curve(
        metrics,
        run.run_dir / PLOT_FILE,
        unigram_nats=unigram.nats,
        title=run.config.model.name,
        predicted=run.prediction.curve if run.prediction else None,
    )
    curve, ledger = RecordedCurve.read(metrics), facts.read(run.run_dir)
    table = summary(
        curve,
        run_dir=run.run_dir,
        layouts=layouts_of(ledger, str(run.layout)),
        size=ModelSize.of(run.config.model),
        unigram=unigram,
        goodput=in_words(of_training(ledger)),
        also_files=[SUMMARY_FILE, *([SAMPLES_FILE] if run.config.sample.prompts else [])],
    )
    console.print(table)
    write_atomically(run.run_dir / SUMMARY_FILE, _as_text(table))
    if warning := has_learned_nothing(curve, unigram):
        console.print(Text(f"warning: {warning}", style="bold red"), soft_wrap=True)
    show_samples(run, console)


def show_samples(run: Run, console: Console) -> None:
    """Print and keep the continuation of each prompt of the config by the newest checkpoint."""
    sample = run.config.sample
    if not sample.prompts:
        return
    model = load_model(run.run_dir, run.checkpoints.newest(), device=run.config.train.device)
    lines = []
    for prompt, text in continue_all(model, sample.prompts, sample):
        console.print(Text.assemble((printable(prompt), "bold"), (printable(text), "green")), soft_wrap=True)
        console.rule(style="dim")
        lines.append(json.dumps({"prompt": prompt, "text": text}) + "\n")
    write_atomically(run.run_dir / SAMPLES_FILE, "".join(lines))


def _as_text(table: Table) -> str:
    """A table as plain text."""
    text = io.StringIO()
    Console(file=text, width=_SUMMARY_WIDTH).print(table)
    return text.getvalue()
