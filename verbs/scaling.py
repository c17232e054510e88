"""The verbs of studies over many runs."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from foretrain.trainer.run.exit_status import EXIT_FAILED
from foretrain.verbs.shared import (
    EXIT_DIFFERS,
    ConfigArgument,
    CoordCheckOption,
    Overrides,
    bad_input,
    check_writable,
    looking,
)


def mup_table(config: ConfigArgument, overrides: Overrides = None) -> None:
    """Show what a parametrization gives each parameter: initial values, multiplier, learning rate, eps, weight decay.

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
    widths: Annotated[
        str,
        typer.Option(
            help="Values of model.d_model, such as 64,128,256. Default: mup.base.d_model, doubled repeatedly, from 64."
        ),
    ] = "",
    depths: Annotated[
        str,
        typer.Option(
            help="Values of model.num_layers, or none. Default: mup.base.num_layers, doubled repeatedly, if completep."
        ),
    ] = "",
    seeds: Annotated[
        int, typer.Option(help="Number of seeds. Each model trains with every seed, and the mean is judged.")
    ] = 2,
    steps: Annotated[int, typer.Option(help="Number of optimizer steps of each model.")] = 8,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Learning rate. Default: model.init_std / 32, which shows wrong factors; for sgd optimizer.lr."
        ),
    ] = None,
    layout: Annotated[
        str, typer.Option(help="Layout of the processes that train each model, such as 'tp=2 sp'.")
    ] = "dp=1",
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Device to train on; auto: a GPU if the machine has one.")
    ] = "auto",
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write coord_check.json and coord_check.png to this folder.")
    ] = None,
) -> None:
    """Check that activations and their updates keep their size over widths and depths, as muP requires.

    Trains small models with the architecture of the config for a few steps, and fits the slope of log2(mean |x|) and
    log2(change) of every module, and of gains, biases and the head. Exits with 1 if a slope is steeper than 0.2 over
    widths or 0.4 over depths. The check cannot see wrong factors of weight decay, nor a wrong scale of attention,
    because heads keep their width.

    Example: `foretrain coord-check runs/dry_run mup.parametrization=mup mup.base.d_model=64`
    """
    from foretrain.configs import load as configs
    from foretrain.scaling.coord_check import report
    from foretrain.scaling.coord_check.plan import make_plan, parse_sizes
    from foretrain.scaling.coord_check.run import check, device_of, slots
    from foretrain.scaling.layouts import parse_layout
    from foretrain.scaling.records import COORD_CHECK_FILE

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
        slots(plan)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            check_writable(out / COORD_CHECK_FILE, out / report.PLOT_FILE)
    with report.progress_of(plan) as progress:
        measured, verdict = check(plan, progress)
    if out is not None and measured:
        report.write(out, plan, measured, verdict)
    report.print_verdict(plan, verdict)
    raise typer.Exit(0 if verdict.passed else EXIT_DIFFERS)


def sweep(
    config: ConfigArgument,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the trials and their results.")],
    over: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=SPEC",
            help="A setting and the values to try: KEY=2^-10..2^-3, KEY=1e-4,3e-4 or KEY=0..0.2:0.05.",
        ),
    ],
    overrides: Overrides = None,
    widths: Annotated[
        str, typer.Option(help="Values of model.d_model, such as 32,64,128. Default: that of the config.")
    ] = "",
    depths: Annotated[
        str, typer.Option(help="Values of model.num_layers, such as 2,4. Default: that of the config.")
    ] = "",
    seeds: Annotated[str, typer.Option(help="Seeds, such as 0,1,2. Every trial is repeated with each.")] = "0",
    search: Annotated[
        Literal["grid", "random", "halving"],
        typer.Option(
            help="grid: all combinations; random: some of them; halving: the best third gets three times the tokens."
        ),
    ] = "grid",
    num_trials: Annotated[
        int | None,
        typer.Option(
            help="Number of combinations to draw at random. Each is tried at every width and depth, with every seed."
        ),
    ] = None,
    search_seed: Annotated[int, typer.Option(help="Seed of the random draw.")] = 0,
    jobs: Annotated[
        int | None, typer.Option(help="Number of trials to run at a time. Default: as many as the cores or GPUs hold.")
    ] = None,
    on: Annotated[
        str,
        typer.Option("--on", metavar="LAUNCHER", help="Where to run the trials: local, slurm, ray or a plugin's."),
    ] = "local",
    layout: Annotated[str, typer.Option(help="Layout of the processes of each trial, such as 'dp=2 tp=2'.")] = "dp=1",
) -> None:
    """Train small proxies of a config with many values of its settings, to find the best values.

    If it is interrupted or killed, the same command resumes, and ends with the same results. Exits with 0 when every
    trial has a result; to diverge is a result too.

    Example: `foretrain sweep runs/dry_run --over optimizer.lr=2^-10..2^-5 --widths 64,128 --out sweeps/lr
    train.num_tokens=1e5`
    """
    from foretrain.configs import load as configs
    from foretrain.scaling.console import console_for_tables
    from foretrain.scaling.layouts import parse_layout
    from foretrain.scaling.sweep.plan import Ask
    from foretrain.scaling.sweep.progress import SweepProgress
    from foretrain.scaling.sweep.report import print_end
    from foretrain.scaling.sweep.run import make_plan, open_sweep
    from foretrain.scaling.sweep.space import parse_numbers
    from foretrain.scaling.trials.folder import runner_of

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
            runner = runner_of(plan.base, parse_layout(layout), out, on, jobs, "sweep")
            trials = until_done.enter_context(open_sweep(plan, out))
        with bad_input(), SweepProgress(plan.num_trials) as progress:
            status = trials.run(runner, progress)
        print_end(trials, status, console_for_tables())
    raise typer.Exit(status)


def transfer(
    sweep: Annotated[Path, typer.Argument(metavar="SWEEP", help="The folder of a `foretrain sweep`.")],
    to: Annotated[
        str, typer.Option("--to", metavar="CONFIG", help="The config of the large run: a YAML file or a preset.")
    ],
    overrides: Overrides = None,
    coord_check: CoordCheckOption = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to write. Default: the name of CONFIG with .transferred.yaml."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Write the config although the evidence does not support it, and note the reasons in it."
        ),
    ] = False,
) -> None:
    """Transfer the best learning rate of small proxies to a large config, if the evidence supports it.

    Writes the full config with the tuned values and the evidence for them. If the values are not known to hold for the
    large model, it writes no config, says why and what to do, and exits with 1.

    Example: `foretrain transfer sweeps/small --to runs/gpt2_124m_a100 mup.parametrization=mup mup.base.d_model=64`
    """
    from foretrain.scaling.console import console_for_tables
    from foretrain.scaling.transfer import report
    from foretrain.scaling.transfer.plot import PLOT_FILE, plot
    from foretrain.scaling.transfer.transfer import default_out, make_transfer, write

    with looking("transfer", *(overrides or [])):
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
