"""One sealed prediction of a run with 300 times the compute of its largest proxy, on a GPU.

    python -m benchmarks.predictions.gpu --out benchmarks/results/predictions_gpu

The set-up is that of the twenty predictions, with larger proxies: widths 56 to 128, five seeds each. It is
planned to take less than ten minutes on one GPU with eight cores, and needs no network. If it is stopped, the same
command continues. The exit status is 1 if the measured loss is outside of the interval at 90 %, or more than 1 % from
the prediction.
"""

import os
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks.predictions.campaign import Campaign, Target
from benchmarks.predictions.plan import ON_GPU, Frozen
from foretrain.scaling.prediction.record import ScoreRecord

MAX_ERROR = 0.01

app = typer.Typer(add_completion=False)
console = Console(stderr=True)


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Folder of the fit, the prediction and its score.")] = Path(
        "benchmarks/results/predictions_gpu"
    ),
    work: Annotated[Path, typer.Option(help="Folder of the corpus and the runs.")] = Path("runs/predictions_gpu"),
    jobs: Annotated[int, typer.Option(help="Proxies at a time.")] = 6,
) -> None:
    """Train the proxies, seal a prediction, train the target, and score it; continue where it was stopped."""
    if not torch.cuda.is_available():
        console.print("error: torch sees no CUDA device here: run this on a machine with a GPU")
        raise typer.Exit(2)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if not predict_all(ON_GPU, out, work, jobs):
        raise typer.Exit(1)


def predict_all(plan: Frozen, out: Path, work: Path, jobs: int) -> bool:
    """Do what is left of a plan, under muP. Returns whether every prediction is within MAX_ERROR and its interval."""
    campaign = Campaign(plan, "mup", out, work, jobs, console.print)
    campaign.fit_all()
    campaign.seal_all()

    def ended(target: Target, score: ScoreRecord) -> None:
        prediction, _ = campaign.scored()[target.name]
        low, high = prediction.intervals["0.9"]
        console.print(
            f"{target.name}: predicted {prediction.loss:.4f} ({low:.4f} to {high:.4f}), measured {score.measured:.4f}, "
            f"error {score.error:+.2%}"
        )

    campaign.run(campaign.unscored(), ended)
    scores = [score for _, score in campaign.scored().values()]
    return len(scores) == plan.num_targets and all(
        abs(score.error) <= MAX_ERROR and score.inside["0.9"] and not score.problems for score in scores
    )


if __name__ == "__main__":
    app()
