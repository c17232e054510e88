"""The verbs of one run."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

import typer

from foretrain.trainer.run.exit_status import EXIT_BAD_INPUT, EXIT_DONE
from foretrain.verbs.shared import EXIT_DIFFERS, ConfigArgument, Overrides, bad_input, looking


def train(
    config: ConfigArgument,
    overrides: Overrides = None,
    allow_data_change: Annotated[
        bool,
        typer.Option(
            "--allow-data-change", help="Resume although the data or the mixture have changed since the checkpoint."
        ),
    ] = False,
) -> None:
    """Train a model, or resume from the run's newest checkpoint.

    Starts all ranks of the layout on this machine. If RANK is set, as by torchrun or srun, it runs that one rank.
    Ctrl-C saves a checkpoint and ends; the same command resumes.

    Example: `foretrain train runs/dry_run train.num_tokens=2e5`
    """
    from foretrain.configs import load as configs
    from foretrain.launcher import train

    with ExitStack() as until_done:
        with bad_input(starts_a_run=True):
            place = train.place_from_environment()
            settings = configs.load(config, overrides or [])
            run = until_done.enter_context(train.prepared_run(settings, place, allow_data_change=allow_data_change))
            if place.rank == 0:
                train.announce(run)
        raise typer.Exit(EXIT_DONE if run.is_complete or run.has_stopped else train.train(run, place))


def launch(
    config: ConfigArgument,
    overrides: Overrides = None,
    on: Annotated[
        str,
        typer.Option("--on", metavar="LAUNCHER", help="Where to start the ranks: local, slurm, ray or a plugin's."),
    ] = "local",
    nodes: Annotated[int | None, typer.Option(help="Nodes; the same as cluster.num_nodes=N.")] = None,
    gpus_per_node: Annotated[
        int | None, typer.Option(help="GPUs of a node, and so its ranks; the same as cluster.gpus_per_node=G.")
    ] = None,
    elastic: Annotated[
        str | None,
        typer.Option(
            metavar="MIN:MAX",
            help="Data-parallel sizes: a start has the largest for which there are ranks. The same as launch.elastic.",
        ),
    ] = None,
    allow_data_change: Annotated[
        bool, typer.Option("--allow-data-change", help="Resume from a checkpoint with other data, or another mixture.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what would be submitted, and check the run.")
    ] = False,
) -> None:
    """Start a run on this machine, on Slurm or on Ray; the same command resumes where the run ended.

    Checks the run, and makes its folder: the complete config, a copy of the code, and the script that is submitted.

    Example: `foretrain launch runs/llama_7b_a100 --on slurm --nodes 8 launch.slurm.partition=gpu --dry-run`
    """
    from foretrain.configs import load as configs
    from foretrain.data_pipeline.corpus.opening import CommandNotStartedError
    from foretrain.launcher import launch as launching
    from foretrain.registry import PluginNotImportedError
    from foretrain.trainer.run.setup import check_without_data, prepare_run

    with looking("--dry-run", *(overrides or [])) if dry_run else bad_input():
        sizes = {"cluster.num_nodes": nodes, "cluster.gpus_per_node": gpus_per_node, "launch.elastic": elastic}
        options = [f"{key}={value}" for key, value in sizes.items() if value is not None]
        settings = configs.load(config, [*(overrides or []), *options])
        plan = launching.make_plan(settings, on, allow_data_change=allow_data_change)
        if dry_run:
            typer.echo(plan.script.printable, nl=False)
        try:
            run = prepare_run(settings, plan.job.num_ranks, allow_data_change=allow_data_change, progress=True)
        except PluginNotImportedError as error:
            launching.check(plan, dry_run=True)
            typer.echo(f"not checked: {error}", err=True)
            return
        except CommandNotStartedError as error:  # a launch starts it, and checks the rest
            check_without_data(settings, plan.job.num_ranks)
            launching.check(plan, dry_run=True)
            typer.echo(f"not checked: {error}", err=True)
            return
        launching.check(plan, dry_run=dry_run)
        if dry_run:
            return
        if not plan.launcher.in_foreground(plan.launch):
            typer.echo(run.outlook)
            if run.is_complete or run.has_stopped:
                return
        launching.write(plan, run.config)
        submitted = plan.launcher.submit(plan.job, plan.script, plan.launch)
    if isinstance(submitted, int):
        raise typer.Exit(submitted)
    for line in submitted.lines():
        typer.echo(line)


def verify(
    config: ConfigArgument,
    overrides: Overrides = None,
    layouts: Annotated[
        str, typer.Option(help="Layouts to check, such as 'dp=2 tp=2 sp,pp=2 vpp=2 zbv'. Default: every legal layout.")
    ] = "",
    max_processes: Annotated[
        int, typer.Option(help="The largest number of processes of a layout, without --layouts.")
    ] = 4,
    steps: Annotated[int, typer.Option(help="Number of optimizer steps under each layout.")] = 10,
    precision: Annotated[str, typer.Option(help="Precision to check: fp32, bf16 or both.")] = "fp32",
    sample: Annotated[int | None, typer.Option(help="Check only this many of the layouts, chosen at random.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the choice by --sample.")] = 0,
    device: Annotated[
        Literal["cpu", "cuda"], typer.Option(help="Device of the processes; cuda needs a GPU for each of them.")
    ] = "cpu",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the results to this file, as JSON lines.")
    ] = None,
    show_refused: Annotated[
        bool, typer.Option("--show-refused", help="Only list why the config cannot run some layouts, and check none.")
    ] = False,
) -> None:
    """Check on this machine that a config has the same training curve under every layout.

    Makes the model small, trains it for a few steps in each layout, and compares the curve with that of plain PyTorch
    in one process on the CPU, and in float64. Exits with 1 if a layout differs.

    Example: `foretrain verify runs/dry_run --layouts "dp=2,tp=2 sp,pp=2 vpp=2 zbv" --precision both`
    """
    from foretrain.configs import load as configs
    from foretrain.launcher.local.run import check_fits
    from foretrain.scaling.layouts import parse_layouts
    from foretrain.scaling.verify import report
    from foretrain.scaling.verify.plan import make_plan
    from foretrain.scaling.verify.run import check_device
    from foretrain.scaling.verify.run import verify as run_trials

    with bad_input():
        named = parse_layouts(layouts) if layouts else []
        check_fits(max((layout.world_size for layout in named), default=max_processes))
        plan = make_plan(
            configs.load(config, overrides or []),
            named,
            max_processes=max_processes,
            num_steps=steps,
            precision=precision,
            sample=sample,
            seed=seed,
            device=device,
        )
        if show_refused:
            report.print_refused(plan)
            return
        check_device(plan)
        if out is not None:
            report.write_jsonl(out, plan, [])  # a path that cannot be written is an error now, not after the trials
    typer.echo(f"{len(plan.trials)} trials; {len(plan.refused)} layouts are refused (--show-refused lists why)")
    with report.progress_of(plan) as progress:
        verdicts = run_trials(plan, progress)
    if out is not None:
        report.write_jsonl(out, plan, verdicts)
    report.print_verdicts(verdicts)
    raise typer.Exit(0 if all(verdict.passed for verdict in verdicts) else EXIT_DIFFERS)


def replay(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run. Nothing in it is changed.")],
    overrides: Overrides = None,
    after: Annotated[
        int | None,
        typer.Option(
            metavar="STEP",
            help="Step of the checkpoint to start from. Default: the newest with a recorded step after it.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Number of steps. Default: up to 10, but no further than the next checkpoint."),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Relative difference that is allowed; 0: the bits must be equal.")
    ] = 0.0,
) -> None:
    """Take steps of a run again on this machine, and compare them with what the run has recorded.

    Compares the loss and the gradient norm of each step, to the last bit: if one differs, this machine or that of the
    run has computed wrongly. Exits with 1 then, and with 2 if not all steps could be
    taken, or a rank failed.

    Example: `foretrain replay runs/dry_run --after 200 --steps 5`
    """
    with bad_input():
        from foretrain.launcher import replay as replaying

        plan = replaying.plan(run_dir, overrides or [], after, steps, tolerance)
        verdict = replaying.replay(plan)
    typer.echo(verdict.text(plan))
    if verdict.differing:
        raise typer.Exit(EXIT_DIFFERS)
    raise typer.Exit(EXIT_DONE if verdict.is_complete(plan) and not verdict.status else EXIT_BAD_INPUT)
