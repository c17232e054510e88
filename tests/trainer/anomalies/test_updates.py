"""An update that is not applied leaves no trace, whichever engine and layout; all ranks drop it together."""

import math

import pytest

from foretrain.configs.schema import ParallelConfig
from tests.conftest import RunOnRanks
from tests.trainer.anomalies.worker import steps_left_out

QUICK = {
    "one process": ParallelConfig(dp=1),
    "dp=2 zero 1": ParallelConfig(dp=2),
    "dp=2 zero 3": ParallelConfig(dp=2, zero_stage=3),
    "dp=2 offload": ParallelConfig(dp=2, zero_stage=2, offload_optimizer=True),
    "tp=2 pp=2": ParallelConfig(dp=1, tp=2, pp=2),
}
LONG = {
    "dp=2 zero 0": ParallelConfig(dp=2, zero_stage=0),
    "dp=2 zero 2": ParallelConfig(dp=2, zero_stage=2),
    "pp=2 offload": ParallelConfig(dp=1, pp=2, offload_optimizer=True),
    "tp=2": ParallelConfig(dp=1, tp=2),
}
CASES = [
    *(pytest.param(layout, ("refused", "nan"), id=f"{name} refused and nan") for name, layout in QUICK.items()),
    *(pytest.param(layout, ("large",), id=f"{name} large", marks=pytest.mark.long) for name, layout in QUICK.items()),
    *(
        pytest.param(layout, ("refused", "nan", "large"), id=f"{name} refused, nan and large", marks=pytest.mark.long)
        for name, layout in LONG.items()
    ),
]


@pytest.mark.parametrize(("parallel", "ways"), CASES)
def test_a_step_that_is_dropped_leaves_everything_as_if_it_had_not_been(
    parallel: ParallelConfig, ways: tuple[str, ...], ranks: RunOnRanks
) -> None:
    world_size = (parallel.dp or 1) * parallel.tp * parallel.pp
    everyones = ranks(world_size, steps_left_out, parallel, ways)
    for how in ways:
        first = everyones[0][how]["dropped"]
        for found in (each[how] for each in everyones):
            dropped = found["dropped"]
            assert not dropped.is_applied, how
            assert all(result.is_applied for result in found["after"]), how
            assert found["is_unchanged"], f"{how}: weights, moments or the optimizer's step have changed"
            assert [*found["before"], *found["after"]] == found["expected"], how
            if how == "nan":
                assert not math.isfinite(dropped.grad_norm)
            if how == "large":
                assert 100 < dropped.grad_norm < math.inf
            assert repr((dropped.loss, dropped.grad_norm)) == repr((first.loss, first.grad_norm)), (
                f"{how}: ranks differ"
            )
