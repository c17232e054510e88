"""Which samples and positions of a global batch are a rank's."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain.data_pipeline.stream.batches import Batches
from foretrain.parallel.batch_share import BatchShare
from foretrain.parallel.layout import Coordinates, Layout
from tests.data_pipeline.stream.memory_stream import MemoryStream
from tests.data_pipeline.stream.test_samples import make_case


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_the_shares_of_all_ranks_are_the_batch_once_in_the_order_of_ranks(dp: int, cp: int, n: int, m: int) -> None:
    batch = np.arange(n * dp * m * cp).reshape(n * dp, m * cp)
    found = np.empty_like(batch)
    order = []
    for dp_rank, cp_rank in product(range(dp), range(cp)):
        share = BatchShare(Layout(dp=dp, cp=cp), Coordinates(pp=0, dp=dp_rank, tp=0, cp=cp_rank))
        part = share.samples(n * dp), share.positions(m * cp)
        found[part] = batch[part]
        order.append((part[0].start, part[1].start))
    assert np.array_equal(found, batch) and order == sorted(order)


def test_a_batch_that_the_ranks_do_not_divide_is_refused() -> None:
    share = BatchShare(Layout(dp=4, cp=3), Coordinates(pp=0, dp=1, tp=0, cp=1))
    with pytest.raises(ValueError, match="global_batch_size = 10 is not a multiple of dp = 4"):
        share.samples(10)
    with pytest.raises(ValueError, match="16 items cannot be divided into 3 equal parts"):
        share.positions(16)


def test_the_stream_gives_a_rank_the_samples_of_its_share() -> None:
    stream = make_case([MemoryStream(Path("/nowhere"), [70] * 100)], [1.0], seq_len=32).stream
    for dp_rank in range(4):
        share = BatchShare(Layout(dp=4), Coordinates(pp=0, dp=dp_rank, tp=0)).samples(8)
        read = Batches(stream, 8, dp_rank, 4).batch(100).samples_B
        assert read is not None and read.tolist() == list(range(100, 108)[share])
