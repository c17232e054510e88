"""In each of the three packings, samples have the tokens of the stream, and each token is a target once."""

import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.data_pipeline.corpus.shards import TokenStream
from foretrain.data_pipeline.errors import CorpusError, UnreadableError
from foretrain.data_pipeline.inspect.packing_stats import count_documents
from foretrain.data_pipeline.stream.batch import IGNORE, Batch
from foretrain.data_pipeline.stream.packing import BestFitSamples, Packing, Samples, open_samples, positions_of
from tests.data_pipeline.stream.memory_stream import EOT, MemoryStream

PACKINGS: tuple[Packing, ...] = ("windows", "documents", "best_fit")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the plans of all examples of a test."""
    return tmp_path_factory.mktemp("corpora")


@st.composite
def streams(draw: st.DrawFn) -> MemoryStream:
    """Documents of 1 to 40 tokens, in shards that begin anywhere."""
    doc_lens = draw(st.lists(st.integers(1, 40) | st.integers(1, 4), min_size=1, max_size=25))
    num_tokens = sum(doc_lens)
    cuts = draw(st.lists(st.integers(1, num_tokens - 1), max_size=4, unique=True)) if num_tokens > 1 else []
    fingerprint = f"{draw(st.integers(0, 2**64 - 1)):016x}"
    return MemoryStream(Path("nowhere"), doc_lens, sorted(cuts), fingerprint)


seq_lens = st.integers(1, 48)


def _samples(stream: MemoryStream, seq_len: int, packing: Packing, folder: Path) -> Samples:
    shutil.rmtree(folder / "plans", ignore_errors=True)
    return open_samples(stream.as_stream(), seq_len, packing, folder)


def _read(samples: Samples, numbers: np.ndarray, seq_len: int) -> Batch:
    batch = samples.new_batch(len(numbers))
    samples.read(numbers, batch, np.arange(len(numbers)))
    return batch


def _read_all(samples: Samples, seq_len: int) -> Batch:
    return _read(samples, np.arange(samples.num_samples), seq_len)


def _naive_positions(tokens: np.ndarray) -> np.ndarray:
    positions = np.zeros_like(tokens)
    for row, out in zip(tokens, positions, strict=True):
        for at in range(1, len(row)):
            out[at] = 0 if row[at] == EOT else out[at - 1] + 1
    return positions


@given(stream=streams(), seq_len=seq_lens)
def test_windows_cut_the_stream_end_to_end(stream: MemoryStream, seq_len: int, folder: Path) -> None:
    if stream.num_tokens <= seq_len:
        with pytest.raises(CorpusError, match=rf"{stream.num_tokens} tokens, and one sample .* needs {seq_len + 1}"):
            _samples(stream, seq_len, "windows", folder)
        return
    samples = _samples(stream, seq_len, "windows", folder)
    batch = _read_all(samples, seq_len)
    n = samples.num_samples * seq_len
    assert n + 1 <= stream.num_tokens < n + seq_len + 1
    assert np.array_equal(batch.tokens_BL.ravel(), stream.tokens[:n])
    assert np.array_equal(batch.targets_BL.ravel(), stream.tokens[1 : n + 1])
    assert batch.positions_BL is None
    assert batch.num_padding == 0


@given(stream=streams(), seq_len=seq_lens)
def test_documents_are_windows_whose_positions_restart_at_each_eot(
    stream: MemoryStream, seq_len: int, folder: Path
) -> None:
    if stream.num_tokens <= seq_len:
        return
    windows = _read_all(_samples(stream, seq_len, "windows", folder), seq_len)
    batch = _read_all(_samples(stream, seq_len, "documents", folder), seq_len)
    assert np.array_equal(batch.tokens_BL, windows.tokens_BL)
    assert np.array_equal(batch.targets_BL, windows.targets_BL)
    assert batch.positions_BL is not None
    assert np.array_equal(batch.positions_BL, _naive_positions(batch.tokens_BL))


def test_positions_restart_if_a_sample_begins_with_an_eot_or_inside_a_document() -> None:
    tokens = np.array([[EOT, 5, 6, EOT, EOT, 7], [8, 9, EOT, 5, 6, 7], [1, 2, 3, 4, 5, 6]])
    expected = [[0, 1, 2, 0, 0, 1], [0, 1, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]
    assert positions_of(tokens, EOT).tolist() == expected
    assert positions_of(tokens[:, ::2], EOT).tolist() == _naive_positions(tokens[:, ::2]).tolist()


@given(stream=streams(), seq_len=seq_lens)
def test_best_fit_has_every_token_of_the_stream_as_a_target_once(
    stream: MemoryStream, seq_len: int, folder: Path
) -> None:
    samples = _samples(stream, seq_len, "best_fit", folder)
    targets = _read_all(samples, seq_len).targets_BL
    assert np.array_equal(np.sort(targets[targets != IGNORE]), np.sort(stream.tokens))


@given(stream=streams(), seq_len=seq_lens)
def test_best_fit_inputs_are_the_token_before_the_target_and_positions_restart_at_each_piece(
    stream: MemoryStream, seq_len: int, folder: Path
) -> None:
    samples = _samples(stream, seq_len, "best_fit", folder)
    assert isinstance(samples, BestFitSamples)
    batch = _read_all(samples, seq_len)
    assert batch.positions_BL is not None
    before = np.concatenate([[EOT], stream.tokens])
    num_padding = 0
    for sample in range(samples.num_samples):
        rest = list(zip(*(array[sample].tolist() for array in (batch.tokens_BL, batch.targets_BL)), strict=True))
        positions = batch.positions_BL[sample].tolist()
        first, end = samples.plan.sample_starts[sample : sample + 2]
        for start, length in samples.plan.pieces[first:end].tolist():
            pairs = list(zip(before[start : start + length], stream.tokens[start : start + length], strict=True))
            assert rest[:length] == pairs
            assert positions[:length] == list(range(length))
            assert start in stream.starts or (start - stream.starts[stream.starts <= start][-1]) % seq_len == 0
            assert start + length in stream.ends or length == seq_len
            rest, positions = rest[length:], positions[length:]
        assert rest == [(EOT, IGNORE)] * len(rest)
        assert positions == list(range(len(rest)))
        num_padding += len(rest)
    assert batch.num_padding == num_padding == (batch.targets_BL == IGNORE).sum()


@settings(max_examples=50)
@given(stream=streams(), seq_len=seq_lens)
def test_a_sample_belongs_to_the_shard_in_which_it_begins(stream: MemoryStream, seq_len: int, folder: Path) -> None:
    for packing in PACKINGS:
        if packing != "best_fit" and stream.num_tokens <= seq_len:
            continue
        samples = _samples(stream, seq_len, packing, folder)
        assert samples.shard_starts[0] == 0
        assert samples.shard_starts[-1] == samples.num_samples
        assert len(samples.shard_starts) == len(stream.shard_starts)
        for shard in range(len(stream.shard_starts) - 1):
            first, end = stream.shard_starts[shard : shard + 2]
            for sample in range(*samples.shard_starts[shard : shard + 2].tolist()):
                if isinstance(samples, BestFitSamples):
                    pieces = samples.plan.pieces[slice(*samples.plan.sample_starts[sample : sample + 2])]
                    assert ((pieces[:, 0] >= first) & (pieces[:, 0] < end)).all()
                else:
                    assert first <= sample * seq_len < end


@settings(max_examples=50)
@given(stream=streams(), seq_len=seq_lens)
def test_spans_say_where_the_inputs_come_from(stream: MemoryStream, seq_len: int, folder: Path) -> None:
    for packing in PACKINGS:
        if packing != "best_fit" and stream.num_tokens <= seq_len:
            continue
        samples = _samples(stream, seq_len, packing, folder)
        batch = _read_all(samples, seq_len)
        for sample, tokens in enumerate(batch.tokens_BL):
            expected = np.full(seq_len, EOT)
            for span in samples.spans(sample):
                assert span.count > 0
                stretch_tokens = stream.tokens[span.start : span.start + span.count]
                expected[span.at : span.at + span.count] = stretch_tokens
            assert np.array_equal(tokens, expected)


@given(stream=streams(), seq_len=seq_lens, data=st.data())
def test_any_samples_fill_any_rows_and_leave_the_other_rows_unchanged(
    stream: MemoryStream, seq_len: int, folder: Path, data: st.DataObject
) -> None:
    packing = data.draw(st.sampled_from(PACKINGS))
    if packing != "best_fit" and stream.num_tokens <= seq_len:
        return
    samples = _samples(stream, seq_len, packing, folder)
    numbers = data.draw(st.lists(st.integers(0, samples.num_samples - 1), max_size=6))
    rows = data.draw(st.permutations(range(8)))[: len(numbers)]
    batch = samples.new_batch(8)
    for array in (batch.tokens_BL, batch.targets_BL, batch.positions_BL):
        if array is not None:
            array[:] = -7
    batch.num_padding = 1000
    samples.read(np.array(numbers, dtype=np.int64), batch, np.array(rows, dtype=np.int64))
    alone = [_read(samples, np.array([number]), seq_len) for number in numbers]
    for name in ("tokens_BL", "targets_BL", *(["positions_BL"] if samples.has_positions else [])):
        array = getattr(batch, name)
        for row, one in zip(rows, alone, strict=True):
            assert np.array_equal(array[row], getattr(one, name)[0])
        assert (np.delete(array, rows, axis=0) == -7).all()
    assert batch.num_padding == 1000 + sum(one.num_padding for one in alone)


def test_the_padding_of_samples_that_cannot_be_read_is_not_counted(folder: Path) -> None:
    stream = MemoryStream(folder, [5, 6, 7], fingerprint="unreadable")
    samples = _samples(stream, 8, "best_fit", folder)
    stream.unreadable_from = 12
    batch = samples.new_batch(3)
    with pytest.raises(UnreadableError):
        samples.read(np.arange(3), batch, np.arange(3))
    assert batch.num_padding == 0


@settings(max_examples=50)
@given(stream=streams(), seq_len=seq_lens)
def test_document_counts_are_those_of_a_walk_over_all_samples(stream: MemoryStream, seq_len: int, folder: Path) -> None:
    for packing in PACKINGS:
        if packing != "best_fit" and stream.num_tokens <= seq_len:
            continue
        samples = _samples(stream, seq_len, packing, folder)
        sample_of: dict[int, int] = {}  # by the stream position of a target
        for sample in range(samples.num_samples):
            for span in samples.spans(sample):
                first_target = span.start + 1
                if span.start == 0 and span.at > 0:  # after an EOT that the stream does not have
                    sample_of[0] = sample
                sample_of |= dict.fromkeys(range(first_target, first_target + span.count), sample)
        if packing == "best_fit":
            sample_of.setdefault(0, -1)  # in a sample of its own
        held = [
            {sample_of.get(at) for at in range(start if packing == "best_fit" else max(start, 1), end)}
            for start, end in zip(stream.starts.tolist(), stream.ends.tolist(), strict=True)
        ]
        batch = _read_all(samples, seq_len)
        _, stats = count_documents(stream.as_stream(), samples, seq_len)
        assert stats.num_documents == len(held)
        assert stats.num_truncated == sum(len(each) > 1 or None in each for each in held)
        assert stats.num_padding == (batch.targets_BL == IGNORE).sum()
        assert stats.num_unused == stream.num_tokens - (batch.targets_BL != IGNORE).sum()
        assert stats.padding_share == stats.num_padding / batch.targets_BL.size


def test_windows_truncate_documents_that_cross_an_edge_or_are_left_over(folder: Path) -> None:
    # Windows of 4: targets 1-4, 5-8, 9-12 of 15 tokens; the documents are [0, 3), [3, 5), [5, 9), [9, 11), [11, 15).
    stream = MemoryStream(folder, [3, 2, 4, 2, 4]).as_stream()
    _, stats = count_documents(stream, open_samples(stream, 4, "windows"), 4)
    assert (stats.num_samples, stats.num_truncated, stats.num_unused) == (3, 1, 3)
    assert stats.truncated_share == 0.2


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_samples_of_a_prepared_corpus_survive_pickling_and_threads(
    stream: TokenStream, packing: Packing, tmp_path: Path
) -> None:
    seq_len = 100
    samples = open_samples(stream, seq_len, packing, tmp_path)
    expected = _read_all(samples, seq_len)
    copy = pickle.loads(pickle.dumps(samples))
    with ThreadPoolExecutor(4) as pool:
        batches = list(pool.map(lambda one: _read_all(one, seq_len), [samples, copy] * 4))
    for batch in batches:
        assert np.array_equal(batch.tokens_BL, expected.tokens_BL)
        assert np.array_equal(batch.targets_BL, expected.targets_BL)
        assert batch.num_padding == expected.num_padding
    if packing == "best_fit":
        targets = expected.targets_BL[expected.targets_BL != IGNORE]
        assert np.array_equal(np.sort(targets), np.sort(stream.read(0, stream.num_tokens)))
        assert (expected.targets_BL == stream.eot_id).sum() == count_documents(stream, samples, seq_len)[
            0
        ].num_documents
    else:
        assert np.array_equal(expected.targets_BL.ravel(), stream.read(1, samples.num_samples * seq_len))
