"""The verbs that predict the loss of a run from those of smaller ones."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from foretrain.trainer.run.exit_status import EXIT_FAILED
from foretrain.verbs.shared import (
    EXIT_DIFFERS,
    BatchRuleOption,
    ConfigArgument,
    CoordCheckOption,
    ForceOption,
    Overrides,
    SweepOption,
    bad_input,
    check_writable,
    looking,
)


def ladder(
    config: ConfigArgument,
    budget: Annotated[
        float, typer.Option(metavar="FLOPS", help="Training FLOPs of all runs together, such as 1e15: an upper limit.")
    ],
    points: Annotated[int, typer.Option(metavar="K", help="Number of rungs: models of growing size.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the plan, the runs and their results.")],
    overrides: Overrides = None,
    seeds: Annotated[
        int,
        typer.Option(help="Number of seeds. Every rung is trained with each: other weights, and another data order."),
    ] = 1,
    tokens_per_param: Annotated[
        float | None,
        typer.Option(help="Training tokens for each parameter, embeddings included. Default: those of the config."),
    ] = None,
    batch: BatchRuleOption = "fixed",
    ratio: Annotated[
        float | None,
        typer.Option(help="FLOPs of a rung relative to the one below. Default: 4, or less: all span 100 at most."),
    ] = None,
    min_width: Annotated[int, typer.Option(help="Smallest model.d_model of a rung.")] = 1,
    sweep: SweepOption = None,
    coord_check: CoordCheckOption = None,
    force: ForceOption = False,
    allow_standard: Annotated[
        bool, typer.Option("--allow-standard", help="Allow the standard parametrization, for a comparison.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(help="Number of runs at a time. Default: as many as the cores or GPUs hold.")
    ] = None,
    on: Annotated[
        str, typer.Option("--on", metavar="LAUNCHER", help="Where to run them: local, slurm, ray or a plugin's.")
    ] = "local",
    layout: Annotated[str, typer.Option(help="Layout of the processes of each run, such as 'dp=2 tp=2'.")] = "dp=1",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the plan, and write nothing.")] = False,
    no_run: Annotated[
        bool, typer.Option("--no-run", help="Write the plan and the configs, and train nothing.")
    ] = False,
) -> None:
    """Train proxies of a config, of growing size, whose losses predict that of the config.

    All rungs have the config's tokens per parameter, schedule, rules of batch and learning rate, tokenizer and held-out
    samples. If it is interrupted or killed, the same command resumes. Exits with 1 if a run failed or diverged.

    Example: `foretrain ladder runs/mup_proxy --budget 1e14 --points 4 --seeds 2 --out ladders/small --dry-run
    model.d_model=512 model.num_heads=32 train.num_tokens=1.3e8 schedule.warmup_tokens=1.3e7`
    """
    from foretrain.configs import load as configs
    from foretrain.scaling.console import console_for_tables
    from foretrain.scaling.ladder import report
    from foretrain.scaling.ladder.plan import Ask, make_plan
    from foretrain.scaling.ladder.run import check_folder, open_ladder
    from foretrain.scaling.layouts import parse_layout
    from foretrain.scaling.transfer.report import print_objections
    from foretrain.scaling.trials.folder import corpora, runner_of

    console = console_for_tables()
    with ExitStack() as until_done:
        with looking("ladder --dry-run", *(overrides or [])) if dry_run else bad_input():
            ask = Ask(
                budget_flops=budget,
                num_points=points,
                num_seeds=seeds,
                tokens_per_param=tokens_per_param,
                batch=batch,
                ratio=ratio,
                min_width=min_width,
                allow_standard=allow_standard,
                sweep=sweep,
                coord_check=coord_check,
                layout=layout,
            )
            plan = make_plan(ask, lambda more: configs.load(config, [*(overrides or []), *more]), corpora(out))
            runner = runner_of(plan.target, parse_layout(layout), out, on, jobs, "ladder")
            check_folder(plan, out)
            print_objections(plan.objections, Console(stderr=True))
            if plan.objections and not force:
                raise typer.Exit(EXIT_FAILED)
            report.print_plan(plan, console)
            if dry_run:
                return
            runs = until_done.enter_context(open_ladder(plan, out))
            if no_run:
                return
        with bad_input(), report.LadderProgress(plan) as progress:
            status = runs.run(runner, progress)
        report.print_end(runs, status, console)
    raise typer.Exit(status)


def fit(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUNS|TABLE.csv", help="Folders of runs, sweeps or ladders, and .csv tables."),
    ],
    law: Annotated[
        str,
        typer.Option(help="chinchilla: of N and D; compute, compute_no_e: of C; auto: N and D if the runs allow it."),
    ] = "auto",
    without_embeddings: Annotated[
        bool, typer.Option("--without-embeddings", help="N counts no embeddings. Default: it counts all parameters.")
    ] = False,
    lowest: Annotated[
        bool,
        typer.Option("--lowest", help="Of runs of the same size, as in a sweep, take the one with the lowest loss."),
    ] = False,
    metric: Annotated[
        str, typer.Option(metavar="NAME", help="What is fitted in place of the loss, such as neg_log_pass_rate/copy.")
    ] = "val_loss",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the fit to this .json file.")] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw the runs, the law with its band, and isoFLOP curves.")
    ] = None,
) -> None:
    """Fit a law of the loss to finished runs, with intervals, noise, and a back-test.

    A table has a column loss, and N and D, or C (FLOPs); seed and loss_error may be there. The fit says when a
    parameter is not identified, separates the noise of seeds from a misspecified law, and predicts its own larger runs
    from its smaller ones.

    Example: `foretrain fit ladders/small --out ladders/small/fit.json`
    """
    from foretrain.scaling.console import console_for_tables
    from foretrain.scaling.prediction import report
    from foretrain.scaling.prediction.fit import evidence_of, fit_record
    from foretrain.scaling.prediction.plot import plot_fit
    from foretrain.scaling.prediction.record import FitRecord
    from foretrain.scaling.prediction.table import read_table
    from foretrain.trainer.run.environment import code_version

    with bad_input():
        for path in (out, plot):
            if path is not None:
                check_writable(path)
        if out is not None and out.exists():
            FitRecord.read(out)  # another file is not replaced
        table = read_table(runs, law, embeddings=not without_embeddings, lowest=lowest, metric=metric)
        evidence = evidence_of(table)
        record = fit_record(table, evidence, code_version() or "")
        if out is not None:
            record.write(out)
        if plot is not None:
            plot_fit(table, evidence, plot)
    report.print_fit(record, console_for_tables())


def predict(
    fit: Annotated[Path, typer.Option("--fit", metavar="FIT", help="A file that `foretrain fit` has written.")],
    config: Annotated[
        str | None, typer.Argument(metavar="[CONFIG]", help="The config of the run: a YAML file, or a preset.")
    ] = None,
    overrides: Overrides = None,
    params: Annotated[
        float | None, typer.Option(help="Without a config: N, parameters as the fit counts them.")
    ] = None,
    tokens: Annotated[float | None, typer.Option(help="Without a config: D, training tokens.")] = None,
    flops: Annotated[float | None, typer.Option(help="Without a config: C, training FLOPs. Default: 6 N D.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Seal the prediction into this file, such as prediction.json.")
    ] = None,
) -> None:
    """Predict the final loss of a run that has not started, with intervals of 80, 90 and 95 %, and seal it.

    Refused, with every reason, if the runs of the fit do not support it: other data, tokenizer or parametrization, an
    extrapolation that is too far, too few sizes, or an interval that says nothing. The sealed file shows a later
    change. It cannot show when it was made: commit it, or publish its seal, before the run.

    Example: `foretrain predict runs/mup_proxy --fit ladders/small/fit.json --out prediction.json`
    """
    from foretrain.configs import load as configs
    from foretrain.scaling.console import console_for_tables
    from foretrain.scaling.prediction import report
    from foretrain.scaling.prediction.predict import predict as predicted
    from foretrain.scaling.prediction.record import FitRecord
    from foretrain.scaling.prediction.target import target_of, target_of_numbers
    from foretrain.trainer.run.environment import code_version

    console = console_for_tables()
    with looking("predict", *(overrides or [])):
        record, seal = FitRecord.read_with_seal(fit)
        if config is None:
            target = target_of_numbers(params, tokens, flops)
        elif (params, tokens, flops) != (None, None, None):
            raise ValueError(f"{config} says N, D and C: leave --params, --tokens and --flops out, or the config")
        else:
            target = target_of(
                configs.load(config, overrides or []),
                embeddings=record.embeddings,
                metric=record.metric,
                problems_sha256=record.problems_sha256,
            )
        if out is not None:
            if out.exists():
                raise ValueError(f"{out} exists: a sealed prediction is not replaced; give --out another name")
            check_writable(out)
        prediction = predicted(record, seal, target, code_version() or "")
        report.print_prediction(prediction, console)
        if out is not None:
            console.print(f"sealed: {prediction.write(out)}", highlight=False, soft_wrap=True)


def score(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of the finished run.")],
    prediction: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The sealed prediction. Default: the run's own, of train.prediction."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the score to this file. Default: beside the prediction.")
    ] = None,
) -> None:
    """Score a sealed prediction by its finished run.

    Exits with 1 if the score does not count, because the run started before the seal or is another run.

    Example: `foretrain score runs/large`
    """
    from foretrain.scaling.console import console_for_tables
    from foretrain.scaling.laws.runs import RunFacts
    from foretrain.scaling.prediction import report
    from foretrain.scaling.prediction.record import PredictionRecord, ScoreRecord
    from foretrain.scaling.prediction.score import score as scored
    from foretrain.scaling.prediction.target import own_prediction, start_of

    with bad_input():
        prediction = prediction or own_prediction(run)
        record, seal = PredictionRecord.read_with_seal(prediction)
        found = scored(record, RunFacts.of_folder(run, metric=record.metric), start_of(run))
        out = out or prediction.with_name(f"{prediction.stem}.score.json")
        if out.exists() and Path(other := ScoreRecord.read(out).run).resolve() != run.resolve():
            raise ValueError(
                f"{out} has the score of another run, {other}, and is not replaced: give --out another name; a tally "
                "counts the first score of a prediction"
            )
        found.record(str(run), seal).write(out)
    report.print_score(record, found, console_for_tables())
    raise typer.Exit(0 if found.counts else EXIT_DIFFERS)


def tally(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder with predictions and their scores.")],
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw predictions and intervals beside the measured losses.")
    ] = None,
) -> None:
    """Show all sealed predictions of a folder with their scores: how many were inside of their intervals, and errors.

    Predictions without a score, and scores that do not count, are listed apart.

    Example: `foretrain tally predictions`
    """
    from foretrain.scaling.console import console_for_tables
    from foretrain.scaling.prediction import report
    from foretrain.scaling.prediction.folder import read_folder
    from foretrain.scaling.prediction.plot import plot_tally
    from foretrain.scaling.prediction.tally import by_metric
    from foretrain.scaling.prediction.tally import tally as rows

    console = console_for_tables()
    with bad_input():
        if plot is not None:
            check_writable(plot)
        found = read_folder(folder)
        metrics = by_metric(found.scored)
        if plot is not None and len(metrics) > 1:
            raise ValueError(
                f"{folder} has predictions of {', '.join(metrics)}, and a picture has one metric: put those of each "
                "into a folder of their own"
            )
        if plot is not None and found.scored:
            plot_tally(found.scored, plot)
    for metric, scored in metrics.items():
        report.print_tally(rows(scored), console, "" if len(metrics) == 1 else metric)
    for line in found.notes:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
