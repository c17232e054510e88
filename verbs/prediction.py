"""The verbs that predict the loss of a run from those of smaller ones."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from foretrain.trainer.run.exit_status import EXIT_FAILED
from foretrain.verbs.shared import ConfigArgument, Overrides, bad_input


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
    batch: Annotated[
        Literal["fixed", "sqrt"],
        typer.Option(help="fixed: the batch of the config; sqrt: it grows as sqrt(tokens), and lr as sqrt(batch)."),
    ] = "fixed",
    ratio: Annotated[
        float | None,
        typer.Option(help="FLOPs of a rung relative to the one below. Default: 4, or less: all span 100 at most."),
    ] = None,
    min_width: Annotated[int, typer.Option(help="Smallest model.d_model of a rung.")] = 1,
    sweep: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Use the best values of this `foretrain sweep`, as `transfer` does."),
    ] = None,
    coord_check: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The coord_check.json of `foretrain coord-check`. Default: SWEEP/coord_check.json."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Use the values of the sweep although the evidence does not support it.")
    ] = False,
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
        with bad_input():
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
