"""The verb that measures a trained model."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from foretrain.verbs.shared import TensorParallelOption, bad_input

if TYPE_CHECKING:
    from foretrain.trainer.measures.held_out import HeldOutResult
    from foretrain.trainer.text.inference import Model


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
            help="Evaluate on the held-out part of this corpus, and make problems of it; may be given several times. "
            "Default: the run's data.",
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Score these tasks, and held-out text only if --data is given. Bundled are which_word, last_word, "
            "copy, recall and addition; others are those of --task-folder, or of lm-eval.",
        ),
    ] = None,
    task_folder: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder with the YAML files of tasks, in the place of those that lm-eval downloads."
        ),
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(min=0, help="Examples before each problem. Default: as the task says.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, help="Problems of each task. Default: all; of bundled tasks, train.eval_problems of the run."
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
    tp: TensorParallelOption = 1,
) -> None:
    """Measure a trained model on held-out text (loss, bits per byte, accuracy, calibration), and on tasks.

    Example: `foretrain eval runs/dry_run --samples 256 --plot reliability.png`
    """
    with bad_input():
        from foretrain.files import write_atomically
        from foretrain.launcher.inference import with_model
        from foretrain.trainer.checkpoint.places import place_of
        from foretrain.trainer.measures import report

        for file in (out, plot):
            if file is not None and not file.absolute().parent.is_dir():
                raise ValueError(f"{file} cannot be written: there is no folder {file.parent}: make it first")
        if tasks is None and (task_folder, num_fewshot, limit) != (None, None, None):
            raise ValueError("--task-folder, --num-fewshot and --limit are for --tasks: name some tasks")
        job = partial(
            print_measures,
            corpora=data or [],
            tasks=None if tasks is None else tasks.split(","),
            task_folder=task_folder,
            num_fewshot=num_fewshot,
            limit=limit,
            samples=samples,
            batch_size=batch_size,
        )
        place = place_of(checkpoint) if checkpoint else None
        found, results = with_model(place_of(run_dir), place, device, tp, job)
        if results and plot is not None:
            report.reliability_diagram(results, plot)
        if out is not None:
            write_atomically(out, json.dumps(found, indent=1) + "\n")


def print_measures(
    model: "Model",
    *,
    corpora: Sequence[str],
    tasks: Sequence[str] | None,
    task_folder: Path | None,
    num_fewshot: int | None,
    limit: int | None,
    samples: int,
    batch_size: int | None,
) -> "tuple[dict[str, Any], list[HeldOutResult]]":
    """Measure a model and print the tables. Returns all results for JSON, and those on held-out text."""
    from rich.console import Console

    from foretrain.trainer.measures import held_out, report
    from foretrain.trainer.measures.tasks import task_scores

    found: dict[str, Any] = {"step": model.step}
    results: list[HeldOutResult] = []
    if tasks is not None:
        scored = task_scores(model, tasks, task_folder, batch_size or 8, num_fewshot, limit, corpora)
        Console().print(report.task_table(scored))
        found["tasks"] = scored
    if tasks is None or corpora:
        sets = held_out.held_out_sets(model, corpora)
        results = held_out.measure_all(model, sets, samples, batch_size)
        Console().print(report.table(results))
        found["held_out"] = [each.to_dict() for each in results]
    return found, results
