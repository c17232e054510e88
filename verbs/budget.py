"""The verb that turns a budget into the config of a run."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from foretrain.trainer.run.exit_status import EXIT_FAILED
from foretrain.verbs.shared import (
    BatchRuleOption,
    CoordCheckOption,
    ForceOption,
    Overrides,
    SweepOption,
    check_writable,
    looking,
)


def budget(
    config: Annotated[
        str | None,
        typer.Argument(
            metavar="[CONFIG]", help="All but size, tokens and rate is taken from it. Default: runs/llama_7b_a100."
        ),
    ] = None,
    overrides: Overrides = None,
    flops: Annotated[float | None, typer.Option(help="The budget in training FLOPs, such as 1e22.")] = None,
    gpu_hours: Annotated[float | None, typer.Option(help="The budget in hours of --gpu.")] = None,
    cost: Annotated[float | None, typer.Option(metavar="USD", help="The budget in money, at --price.")] = None,
    price: Annotated[float | None, typer.Option(metavar="USD", help="Price of an hour of one GPU.")] = None,
    gpu: Annotated[
        str | None, typer.Option(metavar="NAME", help="Such as H100: the peak of its datasheet counts (dense bf16).")
    ] = None,
    mfu: Annotated[
        float | None, typer.Option(help="Share of the peak that training reaches. Default: 0.4, which the page says.")
    ] = None,
    fit: Annotated[
        Path | None,
        typer.Option("--fit", metavar="FIT", help="A file of `foretrain fit --law chinchilla`: your own law."),
    ] = None,
    law: Annotated[
        Literal["hoffmann", "refit"] | None,
        typer.Option(help="A published law: hoffmann (arXiv 2203.15556), or refit (its correction, 2404.10102)."),
    ] = None,
    tp: Annotated[
        int | None, typer.Option(help="Tensor-parallel size that shapes must allow. Default: the config's.")
    ] = None,
    aspect: Annotated[
        float | None,
        typer.Option(help="d_model / num_layers. Default: the config's; under mup, the depth is the config's instead."),
    ] = None,
    batch: BatchRuleOption = "fixed",
    sweep: SweepOption = None,
    coord_check: CoordCheckOption = None,
    force: ForceOption = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the config of the run, for `train` and `launch`.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the files of --out and --json.")] = False,
    to_json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all numbers as JSON.")] = None,
) -> None:
    """Plan the run that a budget pays for: its model, tokens, loss, and what a smaller model would cost.

    The compute-optimal parameters and tokens have intervals of 80, 90 and 95 %. The run has a real shape, whose FLOPs
    are counted exactly and never exceed the budget.

    Example: `foretrain budget runs/llama_7b_a100 --gpu-hours 2000 --gpu H100 --law refit --batch sqrt --out run.yaml`
    """
    from foretrain.configs import load as configs
    from foretrain.files import write_atomically
    from foretrain.scaling.budget import report
    from foretrain.scaling.budget.config import check_are_new, named, write
    from foretrain.scaling.budget.data import facts_of
    from foretrain.scaling.budget.plan import DEFAULT_CONFIG, Ask, make_plan
    from foretrain.scaling.budget.source import source_of
    from foretrain.scaling.budget.spend import spend_of
    from foretrain.scaling.console import console_for_tables
    from foretrain.scaling.transfer.report import print_objections

    settings = list(overrides or [])
    if config is not None and "=" in config:  # without CONFIG, the first setting is in its place
        settings.insert(0, config)
        config = None
    console = console_for_tables()
    with looking("budget", *settings):
        spend = spend_of(flops=flops, gpu_hours=gpu_hours, cost=cost, price=price, gpu=gpu, mfu=mfu)
        ask = Ask(spend, batch=batch, tp=tp, aspect=aspect, sweep=sweep, coord_check=coord_check)
        check_writable(out, to_json)
        check_are_new({"--out": out, "--json": to_json}, overwrite)
        plan = make_plan(
            ask,
            lambda more: configs.load(config or DEFAULT_CONFIG, [*settings, *more]),
            source_of(fit, law),
            facts_of,
        )
        print_objections(plan.objections, Console(stderr=True))
        if plan.objections and not force:
            raise typer.Exit(EXIT_FAILED)
        report.print_plan(plan, console)
        if out is not None:
            write(named(plan.config, out), report.head_of_config(plan), out)
            console.print(f"{out}: the config, for `foretrain train` and `foretrain launch`", highlight=False)
        if to_json is not None:
            write_atomically(to_json, json.dumps(report.to_dict(plan), indent=1, allow_nan=False) + "\n")
