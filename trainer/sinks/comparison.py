"""The sink that compares the steps of a run with those that another run, or an earlier start of it, has recorded."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from foretrain.trainer.sinks.base import Sink

COMPARED = ("loss", "grad_norm")
"""Metrics of a step that must be those that are recorded."""
_NAMES = {"loss": "loss", "grad_norm": "gradient norm"}


class ComparisonSink(Sink):
    """Prints for each step whether it has the loss and the gradient norm that are recorded."""

    def __init__(self, recorded: Mapping[int, Mapping[str, Any]], tolerance: float) -> None:
        """`recorded`: the metrics of a step, by its number. `tolerance`: as of `difference`."""
        self._recorded, self._tolerance = recorded, tolerance

    def step(self, metrics: Mapping[str, float]) -> None:
        number = int(metrics["step"])
        if number not in self._recorded:
            return
        found = difference(self._recorded[number], metrics, self._tolerance)
        print(f"step {number}: {f'DIFFERS: {found}' if found else 'the same'}", flush=True)

    def message(self, text: str) -> None:
        """Print nothing: lines such as "stopped, the same command continues from here" are not true of a replay."""


def steps_of(records: Sequence[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    """The metrics of each step in the records of `metrics.jsonl`, by the number of the step."""
    return {record["step"]: record for record in records if record["kind"] == "train"}


def difference(recorded: Mapping[str, Any], now: Mapping[str, Any], tolerance: float = 0.0) -> str:
    """The metrics of a step that are not those recorded, in words; "" if there are none.

    `tolerance`: the relative difference that is allowed; 0: the bits must be equal.
    """
    lines = [
        f"{_NAMES[name]} {now[name]!r}, recorded {recorded[name]!r}"
        for name in COMPARED
        if not _is_same(recorded[name], now[name], tolerance)
    ]
    # A step at which the run ended was not skipped, and is now, so that the replay has no failure of its own.
    is_finite = all(math.isfinite(recorded[name]) for name in COMPARED)
    if is_finite and ("skipped" in recorded) != ("skipped" in now):
        lines.append(
            "skipped" + (" in the record, and not now" if "skipped" in recorded else ", and not in the record")
        )
    return "; ".join(lines)


def relative_difference(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> float:
    """The greatest relative difference of the metrics that are compared; infinite if one of two is not finite."""
    return max(
        0.0 if _is_same(recorded[name], now[name], 0.0) else _relative(recorded[name], now[name]) for name in COMPARED
    )


def _relative(recorded: float, now: float) -> float:
    if not (math.isfinite(recorded) and math.isfinite(now)):
        return math.inf
    return abs(now - recorded) / max(abs(recorded), abs(now))


def _is_same(recorded: float, now: float, tolerance: float) -> bool:
    if math.isnan(recorded) or math.isnan(now):
        return math.isnan(recorded) and math.isnan(now)
    return recorded == now or (tolerance > 0 and math.isclose(recorded, now, rel_tol=tolerance))
