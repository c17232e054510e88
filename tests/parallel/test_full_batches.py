"""A global batch all of whose targets carry a loss: ranks know the number of its tokens without counting together."""

from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist

from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.schema import TrainConfig
from foretrain.data_pipeline.stream.batch import Batch, IntArray
from foretrain.parallel.layout import Layout
from foretrain.parallel.loss import IGNORE
from foretrain.trainer.objectives.next_token import NextToken
from tests.conftest import RunOnRanks
from tests.parallel import workers

TRAIN = TrainConfig(global_batch_size=4, micro_batch_size=1)


def steps(layout: Layout) -> dict[str, Any]:
    """The same step when ranks count and when they do not, how often they count, and the error of a wrong claim."""
    found: dict[str, Any] = {}
    model = workers.small_model()
    for is_full in (False, True):
        engine = workers.make_engine(layout, model, TRAIN, OptimizerConfig(lr=1e-2))
        engine.set_lr(1.0)
        tokens, _ = workers.batch(0, model, TRAIN)
        tokens = tokens[engine.groups.share.samples(TRAIN.global_batch_size)]
        with mock.patch.object(dist, "all_reduce", wraps=dist.all_reduce) as reduce:
            results = [engine.train_step(tokens, tokens, is_full=is_full) for _ in range(2)]
        found[f"is_full={is_full}"] = repr([(each.loss, each.grad_norm, each.num_tokens) for each in results])
        counts = [call for call in reduce.call_args_list if call.args[0].dtype == torch.int64]
        found[f"counts, is_full={is_full}"] = len(counts)
    targets = tokens.clone()
    targets[0, -1] = targets[0, 0] = IGNORE  # one for each of two context-parallel ranks
    try:
        engine.train_step(tokens, targets, is_full=True)
    except ValueError as error:
        found["error"] = str(error)
    return found


@pytest.mark.parametrize("layout", [Layout(dp=2), pytest.param(Layout(cp=2), marks=pytest.mark.long)], ids=str)
def test_a_full_batch_has_the_same_step_without_a_count_and_a_wrong_claim_is_an_error(
    layout: Layout, ranks: RunOnRanks
) -> None:
    for found in ranks(2, steps, layout):
        assert found["is_full=True"] == found["is_full=False"]
        assert found["counts, is_full=False"] == 2 and found["counts, is_full=True"] == 0
        assert "targets of this rank carry no loss" in found["error"]


def test_an_objective_that_changes_targets_does_not_keep_them_whatever_it_is_derived_from() -> None:
    class Masked(NextToken):
        def inputs_and_targets(self, batch: Batch) -> tuple[IntArray, IntArray]:
            return batch.tokens_BL, batch.tokens_BL

    assert NextToken.keeps_targets() and not Masked.keeps_targets()
