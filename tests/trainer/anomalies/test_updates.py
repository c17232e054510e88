"""An update that is not applied leaves no trace, whichever engine and layout; all ranks drop it together."""

import math

import pytest

from foretrain.configs.schema import ParallelConfig
from tests.conftest import RunOnRanks
from tests.trainer.anomalies.worker import step_left_out

long = pytest.mark.long
OFFLOAD = ParallelConfig(dp=2, zero_stage=2, offload_optimizer=True)
LAYOUTS = [
    pytest.param(ParallelConfig(dp=1), id="one process"),
    pytest.param(ParallelConfig(dp=2, zero_stage=0), id="dp=2 zero 0", marks=long),
    pytest.param(ParallelConfig(dp=2), id="dp=2 zero 1"),
    pytest.param(ParallelConfig(dp=2, zero_stage=2), id="dp=2 zero 2", marks=long),
    pytest.param(ParallelConfig(dp=2, zero_stage=3), id="dp=2 zero 3"),
    pytest.param(OFFLOAD, id="dp=2 offload"),
    pytest.param(ParallelConfig(dp=1, pp=2, offload_optimizer=True), id="pp=2 offload", marks=long),
    pytest.param(ParallelConfig(dp=1, tp=2), id="tp=2", marks=long),
    pytest.param(ParallelConfig(dp=1, tp=2, pp=2), id="tp=2 pp=2"),
]


@pytest.mark.parametrize("how", ["refused", "nan", pytest.param("large", marks=long)])
@pytest.mark.parametrize("parallel", LAYOUTS)
def test_a_step_that_is_dropped_leaves_everything_as_if_it_had_not_been(
    parallel: ParallelConfig, how: str, ranks: RunOnRanks
) -> None:
    world_size = (parallel.dp or 1) * parallel.tp * parallel.pp
    everyones = ranks(world_size, step_left_out, parallel, how)
    for found in everyones:
        dropped = found["dropped"]
        assert not dropped.is_applied
        assert all(result.is_applied for result in found["after"])
        assert found["is_unchanged"], "weights, moments or the optimizer's step have changed"
        assert [*found["before"], *found["after"]] == found["expected"]
        if how == "nan":
            assert not math.isfinite(dropped.grad_norm)
        if how == "large":
            assert 100 < dropped.grad_norm < math.inf
        first = everyones[0]["dropped"]
        assert repr((dropped.loss, dropped.grad_norm)) == repr((first.loss, first.grad_norm)), "ranks differ"
