"""Whether a run is the one that a prediction was made for. Pure."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from foretrain.configs import load as configs
from foretrain.configs.keys import changes_curve
from foretrain.configs.optimization import ScheduleConfig
from foretrain.configs.schema import Config

SAME = (
    "tokenizer_sha256",
    "data_fingerprint",
    "held_out_fingerprint",
    "mixture_fingerprint",
    "parametrization",
    "seq_len",
)
"""What a prediction may say of its run besides N, D and C."""
SHORT_NAMES = {
    "model.d_model": "d_model",
    "model.num_layers": "num_layers",
    "train.global_batch_size": "global_batch_size",
    "optimizer.lr": "lr",
}
"""What predictions have always called these settings."""
MEASUREMENT = ("train.eval_samples", "train.eval_standard_error")
"""Settings that leave the curve as it is, and decide on which samples the final loss is measured."""
COMPARED_ELSEWHERE = ("data.", "model.vocab_size", "train.num_tokens", "train.init_from", "train.branch_from")
"""Settings that N, D, the fingerprints of the data, or the parent of the run show, by the beginning of their keys."""
SIZE_TOLERANCE = 1e-6
"""The largest relative difference of N, D, C and the settings between a prediction and its run."""
SHARE_TOLERANCE = 0.01
"""The largest difference of two shares of a schedule: small runs round their tokens to complete steps."""


def mismatches(
    target: Mapping[str, Any],
    num_params: Iterable[float | None],
    num_tokens: float | None,
    flops: float | None,
    same: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
) -> list[str]:
    """How a run differs from the target of a prediction, a line for each.

    `num_params`: N of the run, in every way of counting it. `same`: values by the names of SAME; an empty one is not
    known. `settings`: the result of `settings_of`; None: the run's config is not known.
    """
    found, counts = [], list(num_params)
    if target.get("N") is not None and not any(_is_same(target["N"], value) for value in counts):
        found.append(f"the prediction is for N = {target['N']:g}, and the run has {counts[0] or math.nan:g}")
    for name, value in (("D", num_tokens), ("C", flops)):
        if target.get(name) is not None and not _is_same(target[name], value):
            found.append(f"the prediction is for {name} = {target[name]:g}, and the run has {value or math.nan:g}")
    for field in SAME:
        expected, is_there = target.get(field), same.get(field)
        if expected and is_there and expected != is_there:
            found.append(f"the prediction is for the {field} {expected}, and the run has {is_there}")
    for name, setting in (settings or {}).items():
        if name in target and not _is_equal(target[name], setting):
            found.append(f"the prediction is for {name} = {_shown(target[name])}, and the run has {_shown(setting)}")
    return found


def settings_of(config: Config) -> dict[str, Any]:
    """The settings that a prediction names: runs of one size and budget that differ in one of them are different runs.

    They are those that change the curve, the seed among them, and those that decide on which samples it is measured.
    """
    return {
        SHORT_NAMES.get(key, key): value
        for key, value in configs.values_of(config).items()
        if key in MEASUREMENT or (changes_curve(key) and not key.startswith(COMPARED_ELSEWHERE))
    }


def schedule_shape(schedule: ScheduleConfig, num_tokens: float) -> dict[str, Any]:
    """What the shape of a loss curve depends on in a schedule, as plain values that JSON can hold."""
    decay_tokens = schedule.decay_tokens if schedule.kind == "constant" else num_tokens - schedule.warmup_tokens
    return {
        "kind": schedule.kind,
        "warmup_share": round(schedule.warmup_tokens / num_tokens, 4),
        "decay_share": round(decay_tokens / num_tokens, 4),
        "min_factor": schedule.min_factor,
    }


def schedule_differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What differs between two results of `schedule_shape`, in words."""
    return [
        f"schedule {name} {one[name]} and {other[name]}"
        for name in one
        if (
            one[name] != other[name]
            if isinstance(one[name], str)
            else abs(one[name] - other[name]) > SHARE_TOLERANCE + 1e-9
        )
    ]


def _is_same(expected: float, value: float | None) -> bool:
    return value is not None and abs(value - expected) <= SIZE_TOLERANCE * abs(expected)


def _is_equal(expected: Any, value: Any) -> bool:
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in (expected, value))
    return _is_same(expected, value) if numbers else bool(expected == value)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
