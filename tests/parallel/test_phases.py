"""The phases of a step are measured one after the other, and leave no time out."""

import time

import torch

from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.schema import TrainConfig
from foretrain.parallel.layout import Layout
from foretrain.parallel.phases import PhaseClock
from tests.conftest import RunOnRanks
from tests.parallel import workers


def test_the_phases_are_the_time_between_their_ends() -> None:
    before = time.perf_counter()
    clock = PhaseClock(torch.device("cpu"))
    clock.end("first")
    time.sleep(0.02)
    clock.end("second")
    total = time.perf_counter() - before
    found = clock.seconds()
    assert list(found) == ["first", "second"]
    assert found["second"] >= 0.02
    assert found["first"] + found["second"] <= total


def phases_of_two_steps() -> list[dict[str, float]]:
    train = TrainConfig(global_batch_size=2, micro_batch_size=1)
    engine = workers.make_engine(Layout(), workers.small_model(), train, OptimizerConfig())
    engine.set_lr(1.0)
    batch = workers.batch(0, workers.small_model(), train)
    return [dict(engine.train_step(*batch).phase_s) for _ in range(2)]


def test_a_step_has_the_seconds_of_its_phases_and_of_the_update_before(ranks: RunOnRanks) -> None:
    ((first, second),) = ranks(1, phases_of_two_steps)
    assert list(first) == ["forward_backward", "reduce"]
    assert list(second) == ["forward_backward", "reduce", "update"]
    assert all(seconds >= 0 for seconds in second.values())
