"""Compiled blocks keep the curve under each layout, share their graphs, and are not compiled again and again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.schema import TrainConfig
from foretrain.launcher.local.run import RankError
from foretrain.parallel.layout import Layout, LayoutError, check
from foretrain.trainer.compilation.machine import FOLDER_VARIABLE
from tests.conftest import RunOnRanks
from tests.parallel import compiled, workers
from tests.parallel.compiled import Found
from tests.parallel.workers import Case
from tests.required import need_to_compile

TRAIN = TrainConfig(global_batch_size=8, micro_batch_size=2, compile=True)
OPTIMIZER = OptimizerConfig(lr=1e-3, clip_norm=0.5)
LLAMA = workers.small_model(num_layers=4)
BACKEND = "aot_eager"
"""A backend that makes the same graphs as torch's own, forward and backward, and runs them without a C++ compiler."""


def case(layout: Layout, model: Any = LLAMA, kind: Any = "steps", **train: Any) -> Case:
    return Case(kind, layout, model, replace(TRAIN, **train), OPTIMIZER, num_steps=3)


FOUR_LAYERS = case(Layout())
TWO_LAYERS = case(Layout(), replace(LLAMA, num_layers=2))
DOCUMENTS = case(Layout(), kind="documents")
EXPECTED = {
    "steps": case(Layout(zero_stage=0), compile=False),
    "documents": case(Layout(zero_stage=0), kind="documents", compile=False),
}
ON_TWO = [
    case(Layout(dp=2, zero_stage=2)),
    case(Layout(tp=2, sp=True), recompute="selective"),
    case(Layout(cp=2), kind="documents", recompute="full"),
    case(Layout(pp=2, vpp=2, schedule="zbv")),
]
ON_ONE = [DOCUMENTS, case(Layout(), recompute="selective", recompute_layers=2)]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept in the home folder of the user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(FOLDER_VARIABLE, "")
    need_to_compile()


def name(each: Case) -> str:
    return f"{each.layout} {each.train.recompute} {each.kind}"


def check_found(each: Case, found: Found, expected: Found) -> None:
    """Compare with eager blocks of one process."""
    assert workers.max_difference(found.steps, expected.steps) < 1e-5, name(each)
    assert found.held_out == pytest.approx(expected.held_out, rel=1e-5), name(each)
    assert 0 < found.num_first == found.num_graphs, f"{name(each)}: something was compiled again"


def test_blocks_share_one_graph_for_training_and_one_for_evaluation(ranks: RunOnRanks) -> None:
    ((found, eager),) = ranks(1, compiled.compiled, [FOUR_LAYERS, EXPECTED["steps"]], "eager")
    check_found(FOUR_LAYERS, found, eager)
    assert (found.num_graphs, eager.num_graphs) == (2, 0)


@pytest.mark.long
def test_graphs_of_single_blocks_or_of_single_batches_are_seen(ranks: RunOnRanks) -> None:
    ((one,),) = ranks(1, compiled.compiled, [TWO_LAYERS], "eager", "a constant of each block")
    assert one.num_graphs > 2
    with pytest.raises(RankError, match="fail_on_recompile_limit_hit"):
        ranks(1, compiled.compiled, [DOCUMENTS], "eager", "segments in graphs")


@pytest.mark.long
@pytest.mark.parametrize("cases", [ON_ONE, ON_TWO], ids=["one rank", "two ranks"])
def test_each_layout_recomputation_and_packing_has_the_curve_of_eager_blocks(
    cases: list[Case], ranks: RunOnRanks
) -> None:
    ((*found,),) = ranks(1, compiled.compiled, [*EXPECTED.values()], BACKEND)
    expected = dict(zip(EXPECTED, found, strict=True))
    results = ranks(cases[0].layout.world_size, compiled.compiled, cases, BACKEND)[0]
    for each, result in zip(cases, results, strict=True):
        check_found(each, result, expected[each.kind])


@pytest.mark.long
def test_layers_of_plugins_are_compiled_and_their_losses_with_other_scales_need_no_other_graphs(
    ranks: RunOnRanks,
) -> None:
    model = replace(LLAMA, num_layers=2, attention="gated", feed_forward="costly_relu")
    cases = [case(Layout(), model), case(Layout(), model, compile=False)]
    ((found, eager),) = ranks(1, compiled.compiled, cases, "eager", "", ["tests.plugins.blocks"])
    check_found(cases[0], found, eager)
    assert found.num_graphs == 2


def test_zero_3_is_refused_with_both_settings() -> None:
    with pytest.raises(
        LayoutError, match=r"parallel.zero_stage = 3 .* train.compile=false, or use parallel.zero_stage=2"
    ):
        check(Layout(dp=2, zero_stage=3), LLAMA, TRAIN)
    check(Layout(dp=2, zero_stage=3), LLAMA, replace(TRAIN, compile=False))
    check(Layout(dp=2, zero_stage=2), LLAMA, TRAIN)
