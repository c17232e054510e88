"""Held-out samples are the same at every evaluation, in the order of the stream."""

from pathlib import Path

import numpy as np

from foretrain.data_pipeline.corpus.shards import open_corpus
from foretrain.data_pipeline.stream.batch import IGNORE
from foretrain.data_pipeline.stream.held_out import held_out
from tests.data_pipeline.stream.memory_stream import EOT, MemoryStream

SEQ_LEN = 32


def test_held_out_samples_are_the_first_windows_in_order(corpus: Path) -> None:
    val = open_corpus(corpus, "val")
    num_samples = (val.num_tokens - 1) // SEQ_LEN
    for asked, got in ((0, 0), (1, 1), (num_samples, num_samples), (num_samples + 50, num_samples)):
        batch = held_out(val, SEQ_LEN, asked)
        assert batch.tokens_BL.shape == batch.targets_BL.shape == (got, SEQ_LEN)
        assert np.array_equal(batch.tokens_BL.ravel(), val.read(0, got * SEQ_LEN))
        assert got == 0 or np.array_equal(batch.targets_BL.ravel(), val.read(1, got * SEQ_LEN))
        assert batch.positions_BL is None and batch.num_padding == 0


def test_a_split_shorter_than_a_window_is_one_sample_whose_padding_carries_no_loss() -> None:
    val = MemoryStream(Path("/nowhere"), [3, 2])
    text = val.read(0, 5)
    for seq_len in (5, 6, 64):
        batch = held_out(val.as_stream(), seq_len, 5)
        assert batch.tokens_BL.shape == batch.targets_BL.shape == (1, seq_len)
        assert np.array_equal(batch.tokens_BL[0, :5], text)
        assert (batch.tokens_BL[0, 5:] == EOT).all()
        assert np.array_equal(batch.targets_BL[0, :4], text[1:])
        assert (batch.targets_BL[0, 4:] == IGNORE).all()
        assert batch.num_padding == (batch.targets_BL == IGNORE).sum()
    assert held_out(val.as_stream(), 4, 5).num_padding == 0  # exactly one full window


def test_positions_restart_at_each_document() -> None:
    val = MemoryStream(Path("/nowhere"), [3, 2, 4])
    batch = held_out(val.as_stream(), 8, 5, with_positions=True)
    assert batch.tokens_BL.tolist() == [[1, 2, EOT, 4, EOT, 6, 7, 8]]
    assert batch.positions_BL is not None and batch.positions_BL.tolist() == [[0, 1, 0, 1, 0, 1, 2, 3]]
