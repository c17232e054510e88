"""The tally of both parametrizations, the bars, and the picture of the errors."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.data.__main__ import machine
from benchmarks.predictions.campaign import Campaign
from benchmarks.predictions.commands import corpus
from benchmarks.predictions.corpora import fingerprint
from foretrain.scaling.prediction.fit import evidence_in
from foretrain.scaling.prediction.folder import read_folder
from foretrain.scaling.prediction.plot import plot_tally
from foretrain.scaling.prediction.record import FitRecord
from foretrain.scaling.prediction.report import print_tally as print_rows
from foretrain.scaling.prediction.tally import Row, Scored, tally
from foretrain.trainer.run.environment import code_version

OTHER_LAWS = ("compute", "compute_no_e")
SUMMARY, PICTURE = "summary.json", "tally.png"
LEAST_INSIDE, MOST_INSIDE = 0.85, 1.0
"""Share of the targets in their interval at 90 %: 17 to 20 of 20."""
MAX_MEDIAN_ERROR = 0.015
MAX_PART_OF_BASELINES = 1 / 3
MAX_WIDTH = 0.08


def scored_by(campaign: Campaign) -> list[Scored]:
    """The predictions with a score that counts, as `foretrain tally` reads them."""
    folder = campaign.prediction_file("").parent
    return read_folder(folder).scored if any(folder.glob("*.score.json")) else []


def rows_of(campaign: Campaign) -> list[Row]:
    """The tally of `foretrain tally`; empty without a score."""
    scored = scored_by(campaign)
    return tally(scored) if scored else []


def bars(campaigns: Sequence[Campaign]) -> dict[str, bool]:
    """Whether each bar of the benchmark holds; they are for muP."""
    mup = next(each for each in campaigns if each.parametrization == "mup")
    rows = rows_of(mup)
    if not rows or rows[-1].count < mup.plan.num_targets:
        return {"every target has a score": False}
    row = rows[-1]
    return {
        "17 to 20 of 20 in their interval at 90 %": LEAST_INSIDE <= row.inside["0.9"] / row.count <= MOST_INSIDE,
        "median error at most 1.5 %": row.median_error <= MAX_MEDIAN_ERROR,
        **{
            f"at most a third of the error of {name}": row.median_error <= MAX_PART_OF_BASELINES * error
            for name, error in row.baselines.items()
        },
        "intervals at most 8 % wide on average": row.mean_width <= MAX_WIDTH,
    }


def write(campaigns: Sequence[Campaign], out: Path) -> None:
    """Write the summary, and the picture of each parametrization's tally."""
    of = {each.parametrization: _summary(each) for each in campaigns}
    plan, work = campaigns[0].plan, campaigns[0].work
    names = sorted({family.corpus for family in plan.families})
    texts = {name: fingerprint(corpus(name, plan.vocab_size, work)) for name in names}
    summary = {"machine": machine(), "code": code_version(), "corpora": texts, "bars": bars(campaigns)}
    (out / SUMMARY).write_text(json.dumps({**summary, **of}, indent=1) + "\n", encoding="utf-8")
    for campaign in campaigns:
        if scored := scored_by(campaign):
            plot_tally(scored, out / campaign.parametrization / PICTURE)


def print_tally(campaigns: Sequence[Campaign], console: Console) -> None:
    """Print the tally of each parametrization, and the bars."""
    for campaign in campaigns:
        console.print(f"[bold]{campaign.parametrization}[/]")
        print_rows(rows_of(campaign), console)
    for name, holds in bars(campaigns).items():
        console.print(f"{'holds' if holds else 'FAILS'}: {name}", style="green" if holds else "bold red")


def other_laws(campaign: Campaign) -> dict[str, list[dict[str, Any]]]:
    """What other laws of compute say of the scored targets from the same proxies, though nothing of it was sealed."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name in OTHER_LAWS:
        for target in campaign.all_targets():
            if target.name not in campaign.scored():
                continue
            _, score = campaign.scored()[target.name]
            runs = FitRecord.read(campaign.fit_file(target.family)).runs
            prediction = evidence_in(name, runs).predict(np.array([target.flops], dtype=float))
            interval = prediction.interval(0.9)
            found.setdefault(name, []).append(
                {
                    "target": target.name,
                    "predicted": round(prediction.loss, 4),
                    "interval": [round(interval.low, 4), round(interval.high, 4)],
                    "error": round(prediction.loss / score.measured - 1, 5),
                    "inside": interval.low <= score.measured <= interval.high,
                }
            )
    return found


def _summary(campaign: Campaign) -> dict[str, Any]:
    predictions = []
    for target in campaign.all_targets():
        found = campaign.scored().get(target.name)
        if found is None:
            continue
        prediction, score = found
        low, high = prediction.intervals["0.9"]
        predictions.append(
            {
                "target": target.name,
                "corpus": target.family.corpus,
                "width": target.width,
                "layers": target.family.num_layers,
                "tokens_per_param": round(target.config.train.num_tokens / prediction.target["N"], 2),
                "schedule": target.family.schedule.kind,
                "flops": target.flops,
                "ratio": round(prediction.ratio, 1),
                "predicted": round(prediction.loss, 4),
                "interval": [round(low, 4), round(high, 4)],
                "measured": round(score.measured, 4),
                "error": round(score.error, 5),
                "inside": score.inside["0.9"],
                "baseline_errors": {name: round(error, 5) for name, error in score.baseline_errors.items()},
                "problems": score.problems,
            }
        )
    return {
        "predictions": predictions,
        "tally": [vars(row) | {"high": row.high if np.isfinite(row.high) else None} for row in rows_of(campaign)],
        "other_laws": other_laws(campaign),
        "mean_error": float(np.mean([each["error"] for each in predictions])) if predictions else None,
        "flops": sum(target.flops for target in campaign.all_targets()),
        "ladder_flops": sum(_cost(campaign.fit_file(family)) for family in campaign.plan.families),
    }


def _cost(fit: Path) -> float:
    """FLOPs of the proxies of a fit; 0 if there is none yet."""
    return sum(run["C"] for run in FitRecord.read(fit).runs) if fit.exists() else 0.0
