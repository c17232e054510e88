"""The sealed predictions in a folder, with their scores."""

import json
from dataclasses import dataclass
from pathlib import Path

from foretrain.scaling.prediction.record import PredictionRecord, ScoreRecord
from foretrain.scaling.prediction.tally import Scored, scored_of


@dataclass(frozen=True)
class Predictions:
    """What a folder holds."""

    scored: list[Scored]
    """The predictions with a score that counts."""
    notes: list[str]
    """A line for each other prediction, and for each file that cannot be used."""


def read_folder(folder: Path) -> Predictions:
    """The predictions below a folder. Raises ValueError if there are none."""
    predictions: dict[str, tuple[Path, PredictionRecord]] = {}
    scores: dict[str, ScoreRecord] = {}
    notes = []
    for path in sorted(folder.rglob("*.json")):
        try:
            kind = _kind(path)
            if kind == PredictionRecord.KIND:
                record, seal = PredictionRecord.read_with_seal(path)
                predictions[seal] = (path, record)
            elif kind == ScoreRecord.KIND:
                score = ScoreRecord.read(path)
                first = min(score, scores.get(score.prediction, score), key=lambda each: each.time)
                if score.prediction in scores:
                    notes.append(f"{path}: its prediction has more than one score, of which the first counts")
                scores[score.prediction] = first
        except ValueError as error:
            notes.append(str(error))
    if not predictions and not notes:
        raise ValueError(f"{folder} holds no predictions: `foretrain predict CONFIG --fit FIT --out FILE` makes one")
    scored = []
    for seal, (path, record) in predictions.items():
        if seal not in scores:
            notes.append(f"{path}: not scored yet")
            continue
        score = scores[seal]
        if score.problems:
            notes.append(f"{path}: does not count: {score.problems[0]}")
            continue
        scored.append(scored_of(str(path), record, score))
    return Predictions(scored, notes)


def _kind(path: Path) -> str:
    """The kind of a file; "" if it is not one of this project's. Raises ValueError if it cannot be read.

    A file that is damaged may be a prediction, which must not disappear from a tally.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}): restore it") from error
    return str(values.get("kind", "")) if isinstance(values, dict) else ""
