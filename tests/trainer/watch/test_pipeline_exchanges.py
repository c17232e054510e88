"""Whichever exchange a pipeline rank does not enter, under whichever schedule, the reports name the rank and it."""

from pathlib import Path

import pytest

from foretrain.parallel.layout import Layout
from tests.conftest import RunOnRanks
from tests.trainer.watch.pausing import pause_before_each_exchange

LAYOUTS = (
    (Layout(pp=3), 3),
    (Layout(pp=3, vpp=2, schedule="interleaved_1f1b"), 3),
    (Layout(pp=3, vpp=2, schedule="interleaved_zb"), 3),
    (Layout(pp=3, vpp=2, schedule="zbv"), 6),
)
"""Each schedule, with as few micro-batches as it takes."""
KINDS = ("shapes of activations", "shapes of gradients", "activations", "gradients")


@pytest.mark.long
def test_a_rank_that_pauses_before_any_exchange_is_named_with_what_the_others_wait_for(
    tmp_path: Path, ranks: RunOnRanks
) -> None:
    kinds, problems = zip(*ranks(3, pause_before_each_exchange, LAYOUTS, tmp_path), strict=True)
    assert not any(problems), "\n".join(line for of_rank in problems for line in of_rank)
    expected = {(layout, what) for layout, _ in LAYOUTS for what in KINDS}
    assert [*kinds] == [expected] * 3
