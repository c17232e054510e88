"""A verification can fail: it finds faults of composed parallelism that are planted one by one."""

from collections.abc import Callable

import pytest

from foretrain.configs.load import load
from foretrain.parallel.layout import Layout
from foretrain.scaling.verify.plan import Precision, VerifyPlan, make_plan
from foretrain.scaling.verify.run import references_of, run_trial
from foretrain.scaling.verify.verdict import Expected
from tests.scaling import faults

FAULTS: list[tuple[Callable, Layout]] = [
    (faults.loss_over_the_tokens_of_a_microbatch, Layout()),
    (faults.loss_over_the_tokens_of_a_rank, Layout(dp=2)),
    (faults.replicated_gradients_not_summed, Layout(tp=2, sp=True)),
    (faults.gradients_divided_by_microbatches, Layout(dp=2)),
    (faults.tied_gradients_not_summed, Layout(pp=2)),
    (faults.tied_norm_counted_twice, Layout(pp=2)),
    (faults.virtual_stages_start_alike, Layout(pp=2, vpp=2, schedule="zbv")),
    (faults.shards_start_alike, Layout(tp=2)),
    (faults.clipped_by_a_local_norm, Layout(pp=2, zero_stage=0)),
    (faults.targets_of_other_microbatches, Layout(pp=2)),
    (faults.learned_positions_from_the_start, Layout(tp=2, sp=True)),
    (faults.attention_to_own_positions, Layout(cp=2)),
    (faults.one_rank_fails, Layout()),
    (faults.loss_that_is_not_a_number, Layout()),
]
QUICK = [
    faults.loss_over_the_tokens_of_a_rank,
    faults.shards_start_alike,
    faults.tied_gradients_not_summed,
    faults.attention_to_own_positions,
    faults.one_rank_fails,
]
"""One fault of each kind: of data, tensor, pipeline and context parallelism, and of a rank that fails."""
SOUND = list(dict.fromkeys(layout for _, layout in FAULTS))


@pytest.fixture(scope="module")
def plan() -> VerifyPlan:
    """A GPT-2, since its embeddings are tied and its positions learned."""
    return make_plan(load("runs/gpt2_124m_a100"), SOUND, num_steps=5)


@pytest.fixture(scope="module")
def references(plan: VerifyPlan) -> dict[Precision, Expected]:
    return references_of(plan)


@pytest.mark.long
@pytest.mark.parametrize("layout", SOUND, ids=str)
def test_without_a_fault_the_layout_passes(
    layout: Layout, plan: VerifyPlan, references: dict[Precision, Expected]
) -> None:
    trial = plan.trials[SOUND.index(layout)]
    assert run_trial(plan, trial, references["fp32"]).problems == ()


@pytest.mark.parametrize(
    ("fault", "layout"),
    [pytest.param(*each, marks=[] if each[0] in QUICK else pytest.mark.long, id=each[0].__name__) for each in FAULTS],
)
def test_a_planted_fault_is_found(
    fault: Callable, layout: Layout, plan: VerifyPlan, references: dict[Precision, Expected]
) -> None:
    trial = plan.trials[SOUND.index(layout)]
    verdict = run_trial(plan, trial, references["fp32"], f"{fault.__module__}:{fault.__name__}")
    assert not verdict.passed
