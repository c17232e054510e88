"""The held-out samples of an evaluation: always the same samples, in the order of the stream."""

import numpy as np

from foretrain.data_pipeline.corpus.shards import TokenStream
from foretrain.data_pipeline.stream.batch import IGNORE, Batch
from foretrain.data_pipeline.stream.packing import positions_of


def held_out(stream: TokenStream, seq_len: int, num_samples: int, *, with_positions: bool = False) -> Batch:
    """Return the first `num_samples` windows of a stream of at least two tokens, or as many full windows as it has.

    A stream shorter than one window is one sample, padded with the EOT token and targets of IGNORE. `with_positions`:
    attention stays inside documents.
    """
    num_full = (stream.num_tokens - 1) // seq_len
    if num_full:
        rows = np.empty((min(num_samples, num_full), seq_len + 1), dtype=np.int64)
        stream.read_rows(np.arange(len(rows)) * seq_len, rows)
    else:
        tokens = stream.read(0, stream.num_tokens).astype(np.int64)
        rows = np.pad(tokens, (0, seq_len + 1 - len(tokens)), constant_values=stream.eot_id)[None, :]
    batch = Batch(rows[:, :-1].copy(), rows[:, 1:].copy())
    if not num_full:
        batch.targets_BL[:, stream.num_tokens - 1 :] = IGNORE
        batch.num_padding = seq_len + 1 - stream.num_tokens
    if with_positions:
        batch.positions_BL = positions_of(batch.tokens_BL, stream.eot_id)
    return batch
