"""DeepSpeed and megatron-core are imported without torch's compiler, which still works."""

import sys
from collections.abc import Callable

import torch
from torch.fx import GraphModule

from tests.conftest import RunOnRanks


def use_of_compiler() -> tuple[bool, bool, int]:
    """Whether this rank has megatron-core, whether it has the compiler, and how many graphs torch.compile makes."""
    imported = [name in sys.modules for name in ("megatron.core.tensor_parallel", "torch._inductor.lowering")]
    graphs: list[GraphModule] = []

    def backend(graph: GraphModule, _: list[torch.Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    torch.compile(lambda x: 2 * x, backend=backend)(torch.zeros(1))
    return imported[0], imported[1], len(graphs)


def test_a_rank_has_imported_megatron_core_without_the_compiler_which_still_works(ranks: RunOnRanks) -> None:
    assert ranks(1, use_of_compiler) == [(True, False, 1)]
