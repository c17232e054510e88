"""The comparison of curves can fail: faults of composed parallelism, planted one by one, each move the curve."""

from collections.abc import Callable

import pytest
import torch

from configs.schema import OptimizerConfig, TrainConfig
from parallel import engine, zero
from parallel.engine import StepResult
from parallel.layout import Layout
from parallel.tensor import IGNORE, TensorParallel
from tests.conftest import RunOnRanks
from tests.parallel import workers
from trainer.model import gpt, init

TRAIN = TrainConfig(global_batch_size=16, micro_batch_size=2)
OPTIMIZER = OptimizerConfig(lr=1e-3, clip_norm=0.5)


def divide_by_local_tokens() -> None:
    def count(self: engine.Engine, targets: torch.Tensor) -> int:
        return int((targets != IGNORE).sum()) * self.groups.layout.dp

    engine.Engine._count_tokens = count  # type: ignore[method-assign,assignment]


def forget_replicated_gradients() -> None:
    TensorParallel.replicated = lambda self, parameter: parameter  # type: ignore[method-assign,assignment]


def forget_tied_gradients() -> None:
    update = zero.Zero.reduce_and_update
    zero.Zero.reduce_and_update = lambda self, tied: update(self, ())  # type: ignore[method-assign]


def count_tied_norm_twice() -> None:
    build = engine.Engine.__init__

    def forget_mark(self: engine.Engine, *args: object, **kwargs: object) -> None:
        build(self, *args, **kwargs)  # type: ignore[arg-type]
        for parameter in self._tied:
            parameter.ds_pipe_replicated = False  # type: ignore[attr-defined]

    engine.Engine.__init__ = forget_mark  # type: ignore[method-assign]


def initialise_shards_alike() -> None:
    def fill(out: torch.Tensor, param: gpt.Param, seed: int, rows: slice, columns: slice | None = None) -> None:
        start = slice(0, rows.stop - rows.start)
        real(out, param, seed, start, columns)

    real, init.fill = init.fill, fill


def scale_by_microbatches() -> None:
    backward = zero.Zero.backward
    zero.Zero.backward = lambda self, loss: backward(self, loss / 2)  # type: ignore[method-assign]


FAULTS: list[tuple[Callable[[], None], Layout]] = [
    (divide_by_local_tokens, Layout(dp=2)),
    (forget_replicated_gradients, Layout(tp=2, sp=True)),
    (forget_tied_gradients, Layout(pp=2)),
    (count_tied_norm_twice, Layout(pp=2)),
    (initialise_shards_alike, Layout(tp=2)),
    (scale_by_microbatches, Layout(dp=2)),
]


def faulty_curve(fault: str, layout: Layout) -> list[StepResult]:
    """A curve with one fault planted in this process."""
    globals()[fault]()
    return sound_curve(layout)


def sound_curve(layout: Layout) -> list[StepResult]:
    """The curve that tests.parallel.test_one_curve finds equal for these layouts."""
    return workers.curve(layout, workers.gpt2_model(), TRAIN, OPTIMIZER, num_steps=2)


@pytest.fixture(scope="module")
def expected(ranks: RunOnRanks) -> list[StepResult]:
    return ranks(1, sound_curve, Layout(zero_stage=0))[0]


@pytest.mark.parametrize(("fault", "layout"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_a_planted_fault_moves_the_curve(
    fault: Callable[[], None], layout: Layout, expected: list[StepResult], ranks: RunOnRanks
) -> None:
    faulty = ranks(layout.world_size, faulty_curve, fault.__name__, layout)[0]
    assert workers.max_difference(faulty, expected) > 1e-4
