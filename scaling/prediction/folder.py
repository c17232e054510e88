"""The sealed predictions in a folder, with their scores."""

import json
from dataclasses import dataclass, field
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
    files = _Files.below(folder)
    if not files.predictions and not files.scores and not files.unreadable:
        raise ValueError(f"{folder} holds no predictions: `foretrain predict CONFIG --fit FIT --out FILE` makes one")
    scored, notes, names_by_run = [], list(files.unreadable), dict[str, list[str]]()
    for seal, (path, record) in files.predictions.items():
        scores = files.scores.get(seal, [])
        if not scores:
            notes.append(f"{path}: not scored yet")
            continue
        chosen, score = min(scores, key=lambda each: _order(each[1]))
        if len(scores) > 1:
            notes.append(f"{path}: it has {len(scores)} scores; {chosen} is taken, the first run that counts")
        if score.problems:
            notes.append(f"{path}: does not count: {score.problems[0]}")
            continue
        scored.append(scored_of(str(path), record, score))
        names_by_run.setdefault(score.sha256 or score.run, []).append(str(path))
    notes.extend(
        f"{' and '.join(names)} are predictions of one run: they are not independent of each other"
        for names in names_by_run.values()
        if len(names) > 1
    )
    notes.extend(
        f"{scores[0][0]}: its prediction is missing, whose seal begins with {seal[:16]}: restore it"
        for seal, scores in files.scores.items()
        if seal not in files.predictions
    )
    return Predictions(scored, notes)


@dataclass(frozen=True)
class _Files:
    """The predictions and scores below a folder, by the seals of the predictions."""

    predictions: dict[str, tuple[Path, PredictionRecord]] = field(default_factory=dict)
    scores: dict[str, list[tuple[Path, ScoreRecord]]] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    """A line for each file that cannot be used."""

    @classmethod
    def below(cls, folder: Path) -> "_Files":
        found = cls()
        for path in sorted(folder.rglob("*.json")):
            try:
                kind = _kind(path)
                if kind == PredictionRecord.KIND:
                    record, seal = PredictionRecord.read_with_seal(path)
                    found.predictions.setdefault(seal, (path, record))
                elif kind == ScoreRecord.KIND:
                    score = ScoreRecord.read(path)
                    found.scores.setdefault(score.prediction, []).append((path, score))
            except ValueError as error:
                found.unreadable.append(str(error))
        return found


def _order(score: ScoreRecord) -> tuple[bool, str, str]:
    """Sorts the scores of one prediction: the first counts.

    A score that does not count hides none that does. Runs are in the order in which they began, which a score that is
    made again does not change, as it changes the time of the score.
    """
    return bool(score.problems), score.began or score.time, score.time


def _kind(path: Path) -> str:
    """The kind of a file; "" if it is not one of this project's. Raises ValueError if it cannot be read.

    A file that is damaged may be a prediction, which must not disappear from a tally.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({error}): restore it") from error
    return str(values.get("kind", "")) if isinstance(values, dict) else ""
