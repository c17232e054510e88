"""DeepSpeed and megatron-core are imported without torch's compiler, which still works; DeepSpeed is the known one."""

import sys
from collections.abc import Callable

import pytest
import torch
from torch.fx import GraphModule

from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.schema import TrainConfig
from foretrain.parallel.groups import destroy_groups
from foretrain.parallel.layout import Layout
from foretrain.parallel.zero.deepspeed_waits import SOURCES, check_sources
from tests.conftest import RunOnRanks
from tests.parallel.workers import make_engine, small_model


def use_of_compiler() -> tuple[bool, int]:
    """Whether an engine of DeepSpeed has imported the compiler, and how many graphs torch.compile then makes."""
    make_engine(Layout(zero_stage=3), small_model(), TrainConfig(), OptimizerConfig())
    assert "megatron.core.tensor_parallel" in sys.modules and "deepspeed.runtime.engine" in sys.modules
    is_imported = "torch._inductor.lowering" in sys.modules
    graphs: list[GraphModule] = []

    def backend(graph: GraphModule, _: list[torch.Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    torch.compile(lambda x: 2 * x, backend=backend)(torch.zeros(1))
    destroy_groups()
    return is_imported, len(graphs)


def test_a_rank_trains_without_importing_the_compiler_which_still_works(ranks: RunOnRanks) -> None:
    assert ranks(1, use_of_compiler) == [(False, 1)]


def dtypes_of_zero_3(has_fp16: bool) -> list[set[torch.dtype]]:
    """The data types of the parameters in fp32 and in bf16, on a processor that computes in fp16 or does not."""
    from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

    CPU_Accelerator.is_fp16_supported = lambda _: has_fp16
    found = []
    for precision in ("fp32", "bf16"):
        engine = make_engine(Layout(zero_stage=3), small_model(), TrainConfig(precision=precision), OptimizerConfig())
        found.append({parameter.dtype for stage in engine.stages for parameter in stage.parameters()})
    destroy_groups()
    return found


@pytest.mark.parametrize("has_fp16", [True, False])
def test_zero_3_has_the_precision_of_the_run_with_and_without_fp16_in_the_processor(
    has_fp16: bool, ranks: RunOnRanks
) -> None:
    assert ranks(1, dtypes_of_zero_3, has_fp16) == [[{torch.float32}, {torch.bfloat16}]]


def test_zero_3_refuses_a_deepspeed_of_which_a_file_has_changed() -> None:
    check_sources()
    with pytest.raises(RuntimeError, match=r"contents of zero/stage3\.py: install deepspeed==0\.19\.8"):
        check_sources({**SOURCES, "zero/stage3.py": "0" * 64})
