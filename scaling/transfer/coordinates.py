"""What a coordinate check says about a target: reads the record of `foretrain coord-check`."""

from collections.abc import Iterator
from pathlib import Path

from foretrain.configs.schema import Config
from foretrain.scaling.architecture import architecture, differences
from foretrain.scaling.records import MIN_CHECK_WIDTH, NUM_CHECK_STEPS, CoordCheckRecord, from_json
from foretrain.scaling.transfer.sweep_folder import Sweep


def read_check(path: Path) -> CoordCheckRecord | None:
    """The record of a coordinate check; None if there is no such file. Raises ValueError for any other file."""
    try:
        return from_json(CoordCheckRecord, path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(
            f"{path} is not what `foretrain coord-check` writes ({error}): run it again, or give --coord-check FILE"
        ) from error


def objections(check: CoordCheckRecord | None, sweep: Sweep, target: Config) -> Iterator[str]:
    """Why the coordinate check does not support a transfer to the target, and what to do."""
    again = f"run `foretrain coord-check CONFIG --out {sweep.folder}`"
    if check is None:
        yield f"there is no coordinate check of this architecture: {again}, or give --coord-check FILE"
        return
    if not check.passed:
        yield f"the coordinate check did not pass: repair what it names, and {again}"
    if min(check.widths, default=MIN_CHECK_WIDTH) < MIN_CHECK_WIDTH:
        yield (
            f"the coordinate check is of models {min(check.widths)} wide, and less than {MIN_CHECK_WIDTH} says little: "
            f"{again} without --widths, or with wider ones"
        )
    if check.steps is not None and check.steps < NUM_CHECK_STEPS:
        yield f"the coordinate check took {check.steps} of {NUM_CHECK_STEPS} steps, and drift may show later: {again}"
    for line in differences(check.architecture, architecture(target)):
        yield f"the coordinate check is of another architecture ({line}): {again} with the target's settings"
    for name, sizes, key in (("widths", check.widths, "d_model"), ("depths", check.depths, "num_layers")):
        size, swept = getattr(target.model, key), {getattr(size, key) for size in sweep.sizes}
        holds_over = name == "widths" or target.mup.parametrization == "completep"
        if holds_over and size not in swept and len(set(sizes)) < 2:
            yield f"the coordinate check did not compare several {name}: {again} --{name} A,B,C"


def summary(check: CoordCheckRecord | None) -> str:
    """A line of evidence."""
    if check is None:
        return "coordinate check: none"
    sizes = f"widths {', '.join(map(str, check.widths))}"
    if check.depths:
        sizes += f", depths {', '.join(map(str, check.depths))}"
    steepest = "" if check.max_slope is None else f", steepest slope {check.max_slope:.2f}"
    passed = "passed" if check.passed else "FAILED"
    return f"coordinate check: {passed}{steepest}; {sizes}; code {check.code or 'unknown'}"
