"""The verdict of a coordinate check in words: what fails, where to look first, what is probably wrong. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from foretrain.scaling.coord_check.judge import Measured, Slope, failures, slopes_of
from foretrain.scaling.coord_check.plan import CoordCheckPlan, Rung

MAX_NAMED = 5
"""The number of failing modules that a verdict names, the steepest first."""


@dataclass(frozen=True)
class CoordCheckVerdict:
    """The result of a coordinate check."""

    slopes: tuple[Slope, ...]
    problems: tuple[str, ...]
    """The reasons for a failure, one on each line; empty if the check passed."""

    @property
    def passed(self) -> bool:
        """Whether every statistic keeps its size."""
        return not self.problems

    @property
    def worst(self) -> Slope | None:
        """The steepest slope; None if nothing was measured."""
        judged = [slope for slope in self.slopes if slope.is_judged]
        return max(judged, key=lambda slope: slope.magnitude, default=None)


def judge(
    plan: CoordCheckPlan, measured: Mapping[Rung, Sequence[Measured]], problems: Sequence[str] = ()
) -> CoordCheckVerdict:
    """Compare what was measured with the tolerances; `problems` say why rungs of the plan were not measured."""
    ladders = [ladder for ladder in plan.ladders if all(rung in measured for rung in ladder.rungs)]
    slopes = [
        slope for ladder in ladders for slope in slopes_of(ladder, measured, plan.judged_steps, plan.config.model)
    ]
    broken = [*problems, *failures(measured)]
    return CoordCheckVerdict(tuple(slopes), (*broken, *_offenders(slopes)))


def _offenders(slopes: Sequence[Slope]) -> list[str]:
    """The steepest slopes in words. The one that fails first comes first: all modules after it inherit its error."""
    failed = [slope for slope in slopes if not slope.passed and slope.value is not None]
    if not failed:
        return []
    first = min(failed, key=lambda slope: slope.step)  # min is stable: of one step it takes the first in the data flow
    named, modules = [first], {(first.axis, first.module)}
    for slope in sorted(failed, key=lambda slope: -slope.magnitude):
        if (slope.axis, slope.module) not in modules and len(named) < MAX_NAMED:
            named.append(slope)
            modules.add((slope.axis, slope.module))
    lines = [f"{'look here first: ' if slope is first else ''}{explain(slope)}" for slope in named]
    num_modules = len({(slope.axis, slope.module) for slope in failed})
    if num_modules > len(named):
        lines.append(f"and {num_modules - len(named)} other modules are too steep")
    return lines


def explain(slope: Slope) -> str:
    """One line: the slope, and its probable cause."""
    assert slope.value is not None
    verb = "changes as" if slope.kind == "change" else "grows as" if slope.value > 0 else "shrinks as"
    hint = _hint_of_depth(slope) if slope.axis == "depth" else _hint_of_width(slope)
    return f"{slope.module} {verb} {slope.axis}^{slope.value:.2f} at step {slope.step}: {hint}"


def _hint_of_width(slope: Slope) -> str:
    assert slope.value is not None
    grows, module = slope.value > 0, slope.module
    if module.endswith((".weight", ".bias")):
        return "the learning rate of gains, biases and the head must not depend on width, and eps goes as 1/m for them"
    if module == "embed":
        return "the embedding's init and learning rate must not depend on width, and eps goes as 1/m for it too"
    if module == "logits":
        if grows:
            return "is what goes into the head multiplied by 1/m, with m = width / base width?"
        return "is what goes into the head multiplied by 1/m more than once, or the head's learning rate scaled too?"
    if slope.kind == "size" and slope.step <= 1:
        return "is its initial variance divided by fan-in, that of this very matrix?"
    if grows:
        return "its update is too large by about that power: is its learning rate divided by fan-in?"
    return (
        "its update is too small by about that power: is its learning rate divided by more than fan-in, or eps by less?"
    )


def _hint_of_depth(slope: Slope) -> str:
    assert slope.value is not None
    if slope.value > 0:
        return (
            "is what every block adds to the residual stream multiplied by 1/mL, with mL = depth / base depth? "
            "(`mup` holds over widths alone, `completep` over depths too)"
        )
    return (
        "is what every block adds to the residual stream divided by depth more than once (1/mL, and in the init too)?"
    )
