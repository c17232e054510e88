"""`verify` sees every alteration of a corpus, and no alteration raises another error than CorpusError."""

import random
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from foretrain.data_pipeline.corpus.manifest import MANIFEST, TOKENIZER, index_name
from foretrain.data_pipeline.corpus.shards import TokenStream, open_corpus
from foretrain.data_pipeline.corpus.verify import verify
from foretrain.data_pipeline.errors import CorpusError
from tests.data_pipeline.corpus.alterations import (
    KINDS,
    NUM_ALTERATIONS,
    alterations,
    outcomes,
    read_all,
    table,
    write_corpus,
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of three shards. A test that alters it restores it."""
    return write_corpus(tmp_path_factory.mktemp("fuzz") / "corpus")


@pytest.mark.parametrize("count", [8 * len(KINDS), pytest.param(NUM_ALTERATIONS, marks=pytest.mark.long)])
def test_verify_sees_each_of_1000_alterations_of_which_plain_webdataset_misses_most(small: Path, count: int) -> None:
    """Any error other than CorpusError, from verify or from opening and reading, fails the test."""
    assert verify(small).splits["train"].num_tokens > 0
    found = list(outcomes(small, count))
    print("\n" + table(found))
    assert len(found) == count and NUM_ALTERATIONS == 1000
    assert {outcome.kind for outcome in found} == set(KINDS)
    unseen = [outcome.kind for outcome in found if not outcome.verify]
    assert unseen == []
    assert sum(outcome.webdataset for outcome in found) < 0.5 * len(found)
    structural = [outcome for outcome in found if "tokens" not in outcome.kind and "block" not in outcome.kind]
    assert sum(outcome.open_corpus for outcome in structural) > 0.95 * len(structural)
    verify(small)  # all alterations are undone


def test_alterations_change_bytes_and_are_repeatable_for_a_seed(small: Path) -> None:
    shards = {file.name: file.read_bytes() for file in small.glob("*.tar")}
    some = list(alterations(shards, 200, seed=5))
    assert all(each.files[name] != shards[name] for each in some for name in list(each.files)[:1])
    assert some == list(alterations(shards, 200, seed=5))
    assert some != list(alterations(shards, 200, seed=6))


@pytest.mark.parametrize("name", [MANIFEST, TOKENIZER, index_name("train"), index_name("val")])
def test_verify_sees_each_alteration_of_the_other_files(small: Path, name: str) -> None:
    draw = random.Random(0)
    original = (small / name).read_bytes()
    for _ in range(30):
        at = draw.randrange(len(original))
        altered = draw.choice(
            [
                original[:at],
                original[:at] + bytes([original[at] ^ 1 << draw.randrange(8)]) + original[at + 1 :],
                original[:at] + draw.randbytes(draw.randint(1, 9)) + original[at:],
                original[:at] + original[at + draw.randint(1, 9) :],
            ]
        )
        (small / name).write_bytes(altered)
        try:
            with pytest.raises(CorpusError):
                verify(small)
            for split in ("train", "val"):
                with suppress(CorpusError):
                    read_all(small, split)
        finally:
            (small / name).write_bytes(original)


def test_damage_while_a_stream_is_open_never_ends_the_process(small: Path) -> None:
    """Files are cut or altered while a reader has them mapped into memory. A signal would end this process."""
    shards = {file.name: file.read_bytes() for file in small.glob("*.tar")}
    stream = open_corpus(small, "train")
    starts = np.arange(0, stream.num_tokens - 100, 50)
    out = np.empty((len(starts), 100), dtype=np.int64)
    stream.read_rows(starts, out)
    for alteration in alterations(shards, 4 * len(KINDS), seed=1):
        for name, content in alteration.files.items():
            (small / name).write_bytes(content)  # truncates the same file first, while it is mapped
        try:
            _read_rows(stream, starts, out)
        finally:
            for name in alteration.files:
                (small / name).write_bytes(shards[name])
    expected = open_corpus(small, "train").read(0, stream.num_tokens)
    stream.read_rows(starts, out)
    assert np.array_equal(out, np.lib.stride_tricks.sliding_window_view(expected, 100)[starts])


def _read_rows(stream: TokenStream, starts: np.ndarray, out: np.ndarray) -> None:
    try:
        stream.read_rows(starts, out)
    except CorpusError:
        return
    assert out.max() < stream.vocab_size
