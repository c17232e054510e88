"""Twenty sealed predictions of runs with 30 to 100 times the compute of their proxies, and how they came out.

    python -m benchmarks.predictions --out benchmarks/results/predictions

For each family of plan.py, proxies are trained (`foretrain ladder`) and a law is fitted (`foretrain fit`). All targets
are predicted and sealed (`foretrain predict`) before the first of them starts. Then they are trained with
`foretrain train`, scored, and tallied. The same is done under the standard parametrization, with the same compute.
It takes about five hours on two cores, and needs no network. If it is stopped, the same command continues;
what is in --out is not made again, also on another machine. The exit status is 1 if a bar fails.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from benchmarks.predictions.campaign import Campaign, Target
from benchmarks.predictions.plan import FROZEN, PARAMETRIZATIONS, Frozen, Parametrization, ladder_flops
from benchmarks.predictions.report import bars, print_tally, write
from foretrain.progress import JobProgress
from foretrain.scaling.prediction.record import ScoreRecord

app = typer.Typer(add_completion=False)
console = Console(stderr=True)
Until = Literal["fits", "seals", "scores"]


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Folder of the fits, predictions, scores and the tally.")] = Path(
        "benchmarks/results/predictions"
    ),
    work: Annotated[Path, typer.Option(help="Folder of the corpora and the runs.")] = Path("runs/predictions"),
    jobs: Annotated[int, typer.Option(help="Runs at a time, each with one thread.")] = 2,
    until: Annotated[
        Until, typer.Option(help="Stop when all laws are fitted, or when all predictions are sealed.")
    ] = "scores",
    only: Annotated[
        Parametrization | None, typer.Option(help="Do this half alone; the other one may follow later.")
    ] = None,
) -> None:
    """Predict, run, score and tally; continue where it was stopped."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    halves = PARAMETRIZATIONS if only is None else (only,)
    if not run(FROZEN, out, work, jobs, until, halves):
        raise typer.Exit(1)


def run(
    plan: Frozen,
    out: Path,
    work: Path,
    jobs: int,
    until: Until = "scores",
    halves: Sequence[Parametrization] = PARAMETRIZATIONS,
) -> bool:
    """Do what is left of a plan. Returns whether all bars hold (True if it stops before the runs)."""
    say = console.print
    campaigns = [Campaign(plan, each, out, work, jobs, say) for each in PARAMETRIZATIONS]
    active = [campaign for campaign in campaigns if campaign.parametrization in halves]
    say(outlook(active))
    for campaign in active:
        campaign.fit_all()
    if until == "fits":
        return True
    for campaign in active:
        campaign.seal_all()
    if until == "seals":
        return True
    left = {campaign: campaign.unscored() for campaign in active}
    total = float(sum(target.flops for targets in left.values() for target in targets))
    with JobProgress(total, label="FLOPs of targets", console=console) as progress:
        for campaign, targets in left.items():

            def ended(target: Target, score: ScoreRecord, campaign: Campaign = campaign) -> None:
                progress.advance(target.flops)
                progress.say(
                    f"{campaign.parametrization} {target.name}: loss {score.measured:.4f}, error {score.error:+.2%}, "
                    f"{'inside' if score.inside['0.9'] else 'outside'}; {progress.time_left()}"
                )
                write(campaigns, out)

            campaign.run(targets, ended)
    write(campaigns, out)
    print_tally(campaigns, console)
    return all(bars(campaigns).values())


GFLOP_S = 40.0
"""What a core does, about: 25 GFLOP/s for the proxies, and 50 for the targets, for the first estimate of the time."""


def outlook(campaigns: list[Campaign]) -> str:
    """What is left to do, and how long it may take."""
    ladders = flops = 0.0
    num_left = 0
    for campaign in campaigns:
        for family in campaign.plan.families:
            if not campaign.fit_file(family).exists():
                ladders += ladder_flops(family, campaign.targets(family)[-1].config, campaign.plan)
        left = campaign.unscored()
        num_left += len(left)
        flops += sum(target.flops for target in left)
    jobs = campaigns[0].jobs
    hours = (flops / GFLOP_S + 2 * ladders / GFLOP_S) / 1e9 / jobs / 3600
    return (
        f"{num_left} targets with {flops:.2g} FLOPs are left, and ladders with {ladders:.2g}: about {hours:.1f} hours "
        f"with {jobs} at a time, if a core does {GFLOP_S:g} GFLOP/s"
    )


if __name__ == "__main__":
    app()
