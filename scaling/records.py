"""The JSON files that one study writes and another reads, as typed records. A file without a version has version 1."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

from foretrain import typed_json

COORD_CHECK_FILE = "coord_check.json"
SWEEP_FILE, LADDER_FILE, RESULTS_FILE, TRIALS = "sweep.json", "ladder.json", "results.jsonl", "trials"

VERSION = 1
"""The version of `coord_check.json` and of the files of a sweep and a ladder."""

MIN_CHECK_WIDTH = 64
"""The smallest width at which a coordinate check is evidence. Narrower models are farther from the limit of infinite
width in which muP holds: correct models have slopes below 0.13 from here up, and below 0.21 from 32 up."""
NUM_CHECK_STEPS = 8
"""Steps at which a coordinate check is evidence: some faults show only after errors have accumulated."""


@dataclass(frozen=True)
class CoordCheckRecord:
    """`coord_check.json`: what a coordinate check compared and found."""

    passed: bool
    architecture: dict[str, Any]
    """See scaling/architecture.py."""
    widths: list[int]
    depths: list[int]
    code: str | None = None
    """Version of the code."""
    max_slope: float | None = None
    """The steepest slope, up or down; None if nothing was measured."""
    tolerances: dict[str, float] = field(default_factory=dict)
    """The steepest slope that is allowed over "width" and over "depth"."""
    seeds: list[int] = field(default_factory=list)
    lr: float | None = None
    steps: int | None = None
    layout: str = ""
    problems: list[str] = field(default_factory=list)
    """Why the check failed."""
    slopes: dict[str, Any] = field(default_factory=dict)
    """By axis, module, kind and step; None if no line goes through the values."""
    version: int = VERSION


@dataclass(frozen=True)
class SweepRecord:
    """`sweep.json`: what a sweep was asked for, and the trials that follow from it."""

    hash: str
    """Changes with what was asked."""
    search: str
    widths: list[int]
    depths: list[int]
    seeds: list[int]
    axes: dict[str, list[Any]]
    """The values that were tried, by the key of the setting."""
    code: str | None = None
    """Version of the code that planned the sweep."""
    over: list[str] = field(default_factory=list)
    """KEY=SPEC of each axis."""
    num_trials: int | None = None
    search_seed: int = 0
    layout: str = "dp=1"
    version: int = VERSION


@dataclass(frozen=True, kw_only=True)
class LadderRecord:
    """`ladder.json`: the plan of a ladder."""

    budget_flops: float
    """FLOPs of all runs that were allowed."""
    seeds: list[int]
    tokens_per_param: float
    """Training tokens of a rung for each of its parameters, embeddings and head included."""
    batch: str
    """The rule of the batch and the learning rate: "fixed", "sqrt" or "linear"."""
    ratio: float
    """Ratio of the costs of neighbouring rungs that the ladder aims at."""
    min_width: int
    parametrization: str
    flops: int
    """FLOPs of all runs."""
    target: dict[str, Any]
    """The model that the ladder leads to, with the numbers that a rung has."""
    rungs: list[dict[str, Any]]
    """Small to large: shape, parameters, tokens, batch, learning rate, FLOPs of one run, epochs of the data, and of the
    run of each seed the folder in `trials`, and the key, which is in `results.jsonl` too."""
    layout: str = "dp=1"
    sweep: str = ""
    """The sweep whose values the ladder uses; "": those of the config."""
    code: str | None = None
    """Version of the code that planned the ladder."""
    version: int = VERSION


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A line of `results.jsonl`: a trial and its outcome. No line contains a time or a speed."""

    trial: str
    """The key of the trial."""
    d_model: int
    num_layers: int
    seed: int
    values: dict[str, Any]
    """The swept settings."""
    parametrization: str
    num_params: int
    num_tokens: int
    """Budget of a final trial."""
    budget_tokens: int | None = None
    """Budget of this trial if it belongs to an earlier rung of successive halving; None if it is final."""
    global_batch_size: int
    seq_len: int
    status: Literal["finished", "diverged"]
    loss: float | None
    val_loss: float | None = None
    diverged_at: int | None = None


Record = TypeVar("Record", CoordCheckRecord, SweepRecord, LadderRecord, TrialRecord)


def from_json(kind: type[Record], text: str | bytes) -> Record:
    """The record in a JSON text; keys that are not known are ignored.

    Raises ValueError if the text is not such a record, or has a later version.
    """
    return typed_json.from_json(kind, text, VERSION)


def to_json(record: CoordCheckRecord | SweepRecord | LadderRecord | TrialRecord, indent: int | None = None) -> str:
    """The JSON text of a record, with a final newline."""
    found = asdict(record)
    if isinstance(record, TrialRecord) and record.budget_tokens is None:
        del found["budget_tokens"]
    return json.dumps(found, indent=indent) + "\n"
