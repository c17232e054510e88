"""The verb that evaluates a trained model."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from foretrain.verbs.shared import bad_input


def evaluate(
    run_dir: Annotated[str, typer.Argument(metavar="RUN_FOLDER", help="The folder of a run, or a URL of checkpoints.")],
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="Checkpoint to use, a folder or a URL. Default: the newest one of the run."
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]CORPUS",
            help="Evaluate on the held-out part of this corpus; may be given several times. Default: the run's data.",
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=0, help="Samples of each held-out set, spread evenly over it; 0: all.")
    ] = 0,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Samples to compute at the same time. Default: as many as 256 MiB hold.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write all results to this .json file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the reliability diagram into this .png file.")] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute; auto: on a GPU if there is one.")
    ] = "auto",
) -> None:
    """Measure a trained model on held-out text: its loss, bits per byte, accuracy and calibration.

    Example: `foretrain eval runs/dry_run --samples 256 --plot reliability.png`
    """
    with bad_input():
        from rich.console import Console

        from foretrain.files import write_atomically
        from foretrain.progress import JobProgress
        from foretrain.trainer.checkpoint.places import place_of
        from foretrain.trainer.measures import held_out, report
        from foretrain.trainer.text.inference import load_model

        for file in (out, plot):
            if file is not None and not file.absolute().parent.is_dir():
                raise ValueError(f"{file} cannot be written: there is no folder {file.parent}: make it first")
        model = load_model(place_of(run_dir), place_of(checkpoint) if checkpoint else None, device)
        sets = held_out.held_out_sets(model, data or [])
        total = held_out.num_samples_of(model, sets, samples)
        with JobProgress(total, label="samples") as progress:
            results = []
            for name, stream in sets.items():
                results.append(held_out.measure(model, name, stream, samples, batch_size, progress.advance))
                progress.log(f"{name}: {results[-1].loss.mean:.4f}, {progress.time_left()}")
        Console().print(report.table(results))
        if out is not None:
            write_atomically(out, json.dumps([each.to_dict() for each in results], indent=1) + "\n")
        if plot is not None:
            report.reliability_diagram(results, plot)
