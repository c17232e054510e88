"""Zero-bubble schedules under tensor parallelism do each product and each sum of the backward pass once."""

from collections import Counter
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.schema import TrainConfig
from foretrain.parallel.layers import Linear
from foretrain.parallel.layout import Layout
from tests.conftest import RunOnRanks
from tests.parallel import workers

TRAIN = TrainConfig(global_batch_size=8, micro_batch_size=1)
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm")
V = Layout(tp=2, pp=2, vpp=2, schedule="zbv")
INTERLEAVED = Layout(tp=2, pp=2, vpp=2, schedule="interleaved_1f1b")


class Count(TorchDispatchMode):
    """Counts operators by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func.name()] += 1
        return func(*args, **(kwargs or {}))


def work_of_a_step(layout: Layout, is_planted: bool = False) -> tuple[int, int]:
    """Products of matrices, and collectives of the tensor-parallel group's kinds, of one rank in its second step."""
    if is_planted:  # megatron-core's own layers, whose backward function computes both gradients
        Linear.forward = lambda self, x: self.inner(x)[0]  # type: ignore[method-assign]
    engine = workers.make_engine(layout, workers.small_model(num_layers=8), TRAIN, OptimizerConfig(lr=1e-3))
    engine.set_lr(1.0)
    tokens, targets = workers.batch(0, workers.small_model(), TRAIN)
    engine.train_step(tokens, targets)
    with Count() as count:
        engine.train_step(tokens, targets)
    sums = sum(number for name, number in count.calls.items() if name.startswith(("c10d::allreduce", "c10d::_reduce")))
    return sum(count.calls[name] for name in PRODUCTS), sums


def total(per_rank: list[tuple[int, int]]) -> tuple[int, int]:
    products, sums = zip(*per_rank, strict=True)
    return sum(products), sum(sums)


@pytest.mark.parametrize("sp", [False, pytest.param(True, marks=pytest.mark.long)])
def test_the_work_is_that_of_a_schedule_that_computes_all_gradients_at_once(sp: bool, ranks: RunOnRanks) -> None:
    layout, once = (Layout(**{**vars(each), "sp": sp}) for each in (V, INTERLEAVED))
    (products, sums), expected = (total(ranks(4, work_of_a_step, each)) for each in (layout, once))
    assert (products, sums) == expected


@pytest.mark.long
def test_work_that_is_done_twice_would_be_seen(ranks: RunOnRanks) -> None:
    planted = total(ranks(4, work_of_a_step, V, True))
    expected = total(ranks(4, work_of_a_step, INTERLEAVED))
    assert planted[0] > 1.3 * expected[0] and planted[1] > 1.3 * expected[1]
