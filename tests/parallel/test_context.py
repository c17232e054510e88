"""Context parallelism: attention over a split sequence is that of one process, forward and backward."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from foretrain.parallel import context
from foretrain.parallel.context import ContextParallel
from foretrain.parallel.groups import destroy_groups, init_groups
from foretrain.parallel.layout import Layout
from tests.conftest import RunOnRanks

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Case:
    """An attention: sizes, and whether positions see later ones."""

    num_heads: int = 4
    num_kv_heads: int = 4
    is_causal: bool = True
    batch_size: int = 2


CASES = [
    Case(),
    Case(num_kv_heads=2),
    Case(num_kv_heads=1),
    Case(num_heads=12, num_kv_heads=3),
    Case(num_heads=12, num_kv_heads=6, batch_size=1),
    Case(is_causal=False, num_kv_heads=2),
]
NEEDS_COPIES = Case(num_kv_heads=2)
"""Fewer key-value heads than the four ranks on which a fault is planted."""


def attend(attention: Callable[..., Tensor], case: Case, positions: slice = slice(None)) -> list[Tensor]:
    """The output and the gradients of queries, keys and values at `positions` of one random problem."""
    generator = torch.Generator().manual_seed(0)
    heads = (case.num_heads, case.num_kv_heads, case.num_kv_heads, case.num_heads)
    full = [torch.randn(case.batch_size, n, 16, 8, generator=generator) for n in heads]
    q, k, v, grad = (x[:, :, positions].contiguous() for x in full)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    out = attention(*inputs, is_causal=case.is_causal)
    return [out.detach(), *torch.autograd.grad(out, inputs, grad)]


def one_process(case: Case) -> list[Tensor]:
    """What `attend` gives without this project."""

    def attention(q: Tensor, k: Tensor, v: Tensor, is_causal: bool) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, enable_gqa=q.shape[1] != k.shape[1])

    return attend(attention, case)


def differences(layouts: list[Layout], cases: list[Case]) -> list[float]:
    """The largest difference from one process of each layout's cases, relative to the largest value."""
    torch.set_num_threads(1)
    found = []
    for layout in layouts:
        parts = ContextParallel(init_groups(layout, "cpu", timeout_s=60.0).cp)
        own = parts.sequence_slice(16)
        for case in cases:
            pairs = zip(attend(parts.attention, case, own), one_process(case), strict=True)
            found.append(max(((x - y[:, :, own]).abs().max() / y.abs().max()).item() for x, y in pairs))
    destroy_groups()
    return found


def attend_to_own_positions() -> None:
    build = ContextParallel.__init__

    def forget_others(self: ContextParallel, group: object) -> None:
        build(self, group)  # type: ignore[arg-type]
        self._exchange = None

    ContextParallel.__init__ = forget_others  # type: ignore[method-assign,assignment]


def copy_heads_in_turns() -> None:
    def repeat(x_LBKH: Tensor, size: int) -> Tensor:
        return x_LBKH.repeat(1, 1, max(1, size // x_LBKH.shape[2]), 1)

    context._repeat_heads = repeat


def faulty_differences(fault: str, layout: Layout) -> list[float]:
    globals()[fault]()
    return differences([layout], [NEEDS_COPIES])


@pytest.mark.parametrize("layouts", [[Layout(cp=2)], [Layout(cp=4), Layout(cp=2, tp=2)]], ids=["2 ranks", "4 ranks"])
def test_attention_over_a_split_sequence_is_that_of_one_process(layouts: list[Layout], ranks: RunOnRanks) -> None:
    for found in ranks(layouts[0].world_size, differences, layouts, CASES):
        assert max(found) < TOLERANCE, list(zip(product(layouts, CASES), found, strict=True))


@pytest.mark.parametrize(
    "fault",
    [attend_to_own_positions, pytest.param(copy_heads_in_turns, marks=pytest.mark.long)],
    ids=lambda fault: fault.__name__,
)
def test_a_planted_fault_changes_attention(fault: Callable[[], None], ranks: RunOnRanks) -> None:
    found = ranks(4, faulty_differences, fault.__name__, Layout(cp=4))
    assert max(difference for (difference,) in found) > 1e-2


@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_rank_needs_no_group_and_gives_the_same_bitwise(case: Case) -> None:
    for ours, expected in zip(attend(ContextParallel().attention, case), one_process(case), strict=True):
        assert torch.equal(ours, expected)


def test_the_parts_of_a_sequence_are_its_positions_in_order() -> None:
    parts = ContextParallel()
    parts.size = 4
    positions: list[int] = []
    for parts.rank in range(4):
        positions += range(16)[parts.sequence_slice(16)]
    assert positions == list(range(16))
