"""Modules are made without memory, and each rank draws the initial values that it keeps."""

import pytest
import torch
from torch import Tensor, nn

from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.schema import Config, TrainConfig
from foretrain.parallel.groups import init_groups
from foretrain.parallel.layout import Layout
from foretrain.parallel.placement import allocate, without_memory
from foretrain.parallel.tensor import TensorParallel
from foretrain.trainer.build import build_engine
from foretrain.trainer.model import init
from foretrain.trainer.model.gpt import build_stages
from foretrain.trainer.mup.parametrize import blueprint
from tests.conftest import RunOnRanks
from tests.parallel import workers

CONFIG = Config(
    model=workers.gpt2_model(), train=TrainConfig(global_batch_size=4, micro_batch_size=1), optimizer=OptimizerConfig()
)
NUM_DRAWN = sum(param.num_elements for param in blueprint(CONFIG).by_name.values() if param.std > 0)


def test_a_stage_takes_no_memory_until_its_parameters_are_placed() -> None:
    (stage,) = build_stages(blueprint(CONFIG), Layout(), 0, TensorParallel())
    assert sum(parameter.numel() for parameter in stage.parameters()) > 10_000
    assert all(parameter.untyped_storage().nbytes() == 4 for parameter in stage.parameters())


def test_what_was_not_placed_is_nan_and_cannot_be_written() -> None:
    layer = without_memory(nn.Linear(3, 2))
    assert layer(torch.ones(3)).isnan().all()
    with pytest.raises(RuntimeError, match="single memory location"), torch.no_grad():
        layer.weight.copy_(torch.ones(2, 3))


def test_a_placed_parameter_is_the_same_object_with_its_marks_and_values() -> None:
    layer = without_memory(nn.Linear(3, 2))
    weight = layer.weight
    weight.mark = "kept"  # type: ignore[attr-defined]

    def fill(parameter: nn.Parameter, out: Tensor, start: int) -> None:
        out.copy_(torch.arange(start, start + len(out)))

    allocate(layer.parameters(), fill, torch.device("cpu"), torch.bfloat16)
    assert layer.weight is weight
    assert weight.mark == "kept"  # type: ignore[attr-defined]
    assert layer.weight.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert layer.weight.dtype == layer.bias.dtype == torch.bfloat16


def num_drawn(layouts: list[Layout]) -> list[int]:
    """How many initial values this rank fills in each layout, without constants."""
    found = []
    real = init.fill
    for layout in layouts:
        counts = []

        def fill(out: Tensor, param: init.Param, *law: object) -> None:
            counts.append(out.numel() if param.std > 0 else 0)  # noqa: B023 (called before the next round)
            real(out, param, *law)  # type: ignore[arg-type]

        init.fill = fill  # type: ignore[assignment]
        build_engine(CONFIG, init_groups(layout, "cpu", timeout_s=60.0))
        found.append(sum(counts))
    return found


def test_replicas_draw_what_they_keep_of_the_weights_and_states(ranks: RunOnRanks) -> None:
    layouts = [Layout(dp=2, zero_stage=stage) for stage in range(4)]
    first, second = ranks(2, num_drawn, layouts)
    assert first[0] == second[0] == NUM_DRAWN  # every replica keeps all weights, and no other sends them
    for stage in (1, 2, 3):
        assert min(first[stage], second[stage]) > 0
        # A part may begin and end inside a row, which is then filled on both.
        assert NUM_DRAWN <= first[stage] + second[stage] < 1.05 * NUM_DRAWN
