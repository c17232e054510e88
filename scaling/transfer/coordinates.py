"""What a coordinate check says for a target: `foretrain coord-check` writes its record, which is read here."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from foretrain.configs.schema import Config
from foretrain.scaling.architecture import architecture, differences
from foretrain.scaling.coord_check.plan import MIN_WIDTH, NUM_STEPS
from foretrain.scaling.transfer.sweep_folder import Sweep

CHECK_FILE = "coord_check.json"


def read_check(path: Path) -> dict[str, Any] | None:
    """The record of a coordinate check; None where there is no such file. Raises ValueError for any other file."""
    try:
        check = json.loads(path.read_text(encoding="utf-8"))
        check["passed"], {**check["architecture"]}, [*check["widths"], *check["depths"]]
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is not what `foretrain coord-check` writes ({error!r}): run it again, or give --coord-check FILE"
        ) from error
    return check


def objections(check: dict[str, Any] | None, sweep: Sweep, target: Config) -> Iterator[str]:
    """Why the coordinate check does not speak for the target, and what to do."""
    again = f"run `foretrain coord-check CONFIG --out {sweep.folder}`"
    if check is None:
        yield f"there is no coordinate check of this architecture: {again}, or give --coord-check FILE"
        return
    if check["passed"] is not True:
        yield f"the coordinate check did not pass: mend what it names, and {again}"
    if min(check["widths"], default=MIN_WIDTH) < MIN_WIDTH:
        yield (
            f"the coordinate check is of models {min(check['widths'])} wide, and less than {MIN_WIDTH} says little: "
            f"{again} without --widths, or with wider ones"
        )
    if check.get("steps", NUM_STEPS) < NUM_STEPS:
        yield f"the coordinate check took {check['steps']} of {NUM_STEPS} steps, and drift may show later: {again}"
    for line in differences(check["architecture"], architecture(target)):
        yield f"the coordinate check is of another architecture ({line}): {again} with the target's settings"
    for axis, key in (("widths", "d_model"), ("depths", "num_layers")):
        size, sizes = getattr(target.model, key), {getattr(size, key) for size in sweep.sizes}
        holds_over = axis == "widths" or target.mup.parametrization == "completep"
        if holds_over and size not in sizes and len(set(check[axis])) < 2:
            yield f"the coordinate check did not compare several {axis}: {again} --{axis} A,B,C"


def summary(check: dict[str, Any] | None) -> str:
    """A line of evidence."""
    if check is None:
        return "coordinate check: none"
    slope, sizes = check.get("max_slope"), f"widths {', '.join(map(str, check['widths']))}"
    if check["depths"]:
        sizes += f", depths {', '.join(map(str, check['depths']))}"
    steepest = "" if slope is None else f", steepest slope {slope:.2f}"
    passed = "passed" if check["passed"] is True else "FAILED"
    return f"coordinate check: {passed}{steepest}; {sizes}; code {check.get('code') or 'unknown'}"
