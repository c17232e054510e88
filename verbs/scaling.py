"""The verbs of studies over many runs."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from foretrain.trainer.exit_status import EXIT_FAILED
from foretrain.verbs.shared import EXIT_DIFFERS, ConfigArgument, Overrides, bad_input, check_writable


def mup_table(config: ConfigArgument, overrides: Overrides = None) -> None:
    """Show what a config's parametrization gives each parameter: initial law, multiplier, learning rate, eps, decay.

    Example: `foretrain mup runs/llama_7b_a100 mup.parametrization=mup mup.base.d_model=256`
    """
    from foretrain.configs import load as configs
    from foretrain.scaling.console import console_for_tables
    from foretrain.trainer.mup.view import show

    with bad_input():
        show(configs.load(config, overrides or []), console_for_tables())


def coord_check(
    config: ConfigArgument,
    overrides: Overrides = None,
    widths: Annotated[str, typer.Option(help="Values of model.d_model; empty: doublings of the base's, from 64.")] = "",
    depths: Annotated[
        str, typer.Option(help="Values of model.num_layers; empty: of the base's, where it is completep; none: none.")
    ] = "",
    seeds: Annotated[int, typer.Option(help="Each model is trained from so many seeds, and their mean is judged.")] = 2,
    steps: Annotated[int, typer.Option(help="Optimizer steps of each model.")] = 8,
    lr: Annotated[
        float | None,
        typer.Option(help="Learning rate; else model.init_std / 32, at which faults show (sgd: the config's)."),
    ] = None,
    layout: Annotated[str, typer.Option(help="Of each model, as in 'tp=2 sp'.")] = "dp=1",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="auto: cuda where there is one.")] = "auto",
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write coord_check.json and coord_check.png here.")
    ] = None,
) -> None:
    """Check that activations and their updates keep their size over widths and depths, as muP wants them to.

    Trains small models of the config's kind for a few steps, and fits the slope of log2(mean |x|) and log2(change)
    of every module, and of gains, biases and the head. Exits with 1 where one is steeper than 0.2 over widths or 0.4
    over depths. It does not see how weight decay or (heads stay as wide as they are) the scale of attention go with
    width.

    Example: `foretrain coord-check runs/dry_run mup.parametrization=mup mup.base.d_model=64`
    """
    from foretrain.configs import load as configs
    from foretrain.launcher.local.run import check_fits
    from foretrain.scaling.coord_check import report
    from foretrain.scaling.coord_check.plan import make_plan, parse_sizes
    from foretrain.scaling.coord_check.run import check, device_of
    from foretrain.scaling.layouts import parse_layout

    with bad_input():
        plan = make_plan(
            configs.load(config, overrides or []),
            widths=parse_sizes("--widths", widths),
            depths=None if not depths else () if depths == "none" else parse_sizes("--depths", depths),
            num_seeds=seeds,
            num_steps=steps,
            lr=lr,
            layout=parse_layout(layout),
            device=device_of(device),
        )
        check_fits(plan.layout.world_size)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            check_writable(out / report.RECORD_FILE, out / report.PLOT_FILE)
    with report.progress_of(plan) as progress:
        measured, verdict = check(plan, progress)
    if out is not None and measured:
        report.write(out, plan, measured, verdict)
    report.print_verdict(plan, verdict)
    raise typer.Exit(0 if verdict.passed else EXIT_DIFFERS)


def sweep(
    config: ConfigArgument,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where trials and results go.")],
    over: Annotated[
        list[str], typer.Option(metavar="KEY=SPEC", help="Values to try: 2^-10..2^-3, 1e-4,3e-4 or 0..0.2:0.05.")
    ],
    overrides: Overrides = None,
    widths: Annotated[str, typer.Option(help="Values of model.d_model, as in 32,64,128; empty: the config's.")] = "",
    depths: Annotated[str, typer.Option(help="Values of model.num_layers; empty: the config's.")] = "",
    seeds: Annotated[str, typer.Option(help="Each trial is repeated with these seeds.")] = "0",
    search: Annotated[
        Literal["grid", "random", "halving"], typer.Option(help="halving: the best third gets three times the tokens.")
    ] = "grid",
    num_trials: Annotated[
        int | None, typer.Option(help="Settings to draw at random; each is tried at every width, depth and seed.")
    ] = None,
    search_seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    jobs: Annotated[int | None, typer.Option(help="Trials at a time; else one for each core (or GPU).")] = None,
    on: Annotated[Literal["local", "slurm", "ray"], typer.Option("--on", help="Where to run them.")] = "local",
    layout: Annotated[str, typer.Option(help="Of each trial, as in 'dp=2 tp=2'.")] = "dp=1",
) -> None:
    """Train small proxies of a config over values of its settings, to find the best ones.

    Interrupted or killed, the same command goes on, and ends with the same results. Exits with 0 once every trial has
    one, and to diverge is one.

    Example: `foretrain sweep runs/dry_run --over optimizer.lr=2^-10..2^-5 --widths 64,128 --out sweeps/lr
    train.num_tokens=1e5`
    """
    from foretrain.configs import load as configs
    from foretrain.scaling.console import console_for_tables
    from foretrain.scaling.sweep.plan import Ask
    from foretrain.scaling.sweep.progress import SweepProgress
    from foretrain.scaling.sweep.report import print_end
    from foretrain.scaling.sweep.run import make_plan, opened, runner_of
    from foretrain.scaling.sweep.space import parse_numbers

    with ExitStack() as until_done:
        with bad_input():
            ask = Ask(
                tuple(over),
                parse_numbers("--widths", widths),
                parse_numbers("--depths", depths),
                parse_numbers("--seeds", seeds, least=0),
                search,
                num_trials,
                search_seed,
                layout,
            )
            plan = make_plan(ask, lambda more: configs.load(config, [*(overrides or []), *more]), out)
            runner = runner_of(plan, out, on, jobs)
            trials = until_done.enter_context(opened(plan, out))
        with bad_input(), SweepProgress(plan.num_trials) as progress:
            status = trials.run(runner, progress)
        print_end(trials, status, console_for_tables())
    raise typer.Exit(status)


def transfer(
    sweep: Annotated[Path, typer.Argument(metavar="SWEEP", help="The folder of a `foretrain sweep`.")],
    to: Annotated[str, typer.Option("--to", metavar="CONFIG", help="The large run: a YAML file or a preset.")],
    overrides: Overrides = None,
    coord_check: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The record of `foretrain coord-check`; else SWEEP/coord_check.json."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the config goes; else CONFIG's name + .transferred.yaml.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Write it where the evidence does not bear it, and say so in it.")
    ] = False,
) -> None:
    """Carry the best learning rate of small proxies over to a large config, if the evidence bears it.

    Writes the whole config with the values, and where they come from. Exits with 1, and writes no config, where they
    are not known to hold for it; says why, and what to do.

    Example: `foretrain transfer sweeps/small --to runs/gpt2_124m_a100 mup.parametrization=mup mup.base.d_model=64`
    """
    from foretrain.scaling.console import console_for_tables
    from foretrain.scaling.transfer import report
    from foretrain.scaling.transfer.plot import PLOT_FILE, plot
    from foretrain.scaling.transfer.transfer import default_out, make_transfer, write

    with bad_input():
        made = make_transfer(sweep, to, overrides or [], coord_check)
        report.print_study(made.study, console_for_tables())
        check_writable(sweep / PLOT_FILE)
        plot(made.study, sweep / PLOT_FILE)
        report.print_objections(made.objections, Console(stderr=True))
        if made.objections and not force:
            raise typer.Exit(EXIT_FAILED)
        path = out or default_out(to)
        check_writable(path)
        write(made, path, overwrite)
    for key, value in made.study.values.items():
        typer.echo(f"{path}: {key} = {value}")
