"""The numbers of `data stats` are those of a count of every token and every sample."""

import io
import re
import shutil
import tarfile
from collections import Counter
from dataclasses import asdict
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tokenizers import Tokenizer

from foretrain.configs.data import DataConfig, SourceConfig, StageConfig
from foretrain.configs.schema import Config, ModelConfig, TrainConfig
from foretrain.data_pipeline.corpus.manifest import Manifest
from foretrain.data_pipeline.inspect import document_lengths
from foretrain.data_pipeline.inspect.document_lengths import PERCENTS, LengthCounter
from foretrain.data_pipeline.inspect.stats import Stats, collect
from foretrain.data_pipeline.inspect.stats_view import bar, print_stats
from foretrain.data_pipeline.prepare.build import prepare
from foretrain.data_pipeline.stream.data import open_data
from tests.data_pipeline.samples import SMALL, write_texts

SEQ_LEN = 32


@pytest.fixture(scope="module")
def other_corpus(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smaller corpus of the same tokenizer: read only."""
    folder = tmp_path_factory.mktemp("other")
    settings = {name: value for name, value in SMALL.items() if name != "vocab_size"}
    texts = write_texts(folder / "texts", num_documents=25, seed=1)
    prepare([texts], folder / "corpus", tokenizer_path=corpus / "tokenizer.json", **settings)
    return folder / "corpus"


def config_of(data: DataConfig, num_tokens: int = 100_000, batch_size: int = 8) -> Config:
    """The config of a run of num_tokens tokens."""
    train = TrainConfig(num_tokens=num_tokens, global_batch_size=batch_size)
    return Config(model=ModelConfig(seq_len=SEQ_LEN), data=data, train=train)


def mixed(corpus: Path, other: Path, **settings: Any) -> DataConfig:
    """Two sources, one of which ends, and a stage with the weights exchanged."""
    return DataConfig(
        sources={"web": SourceConfig(str(corpus), weight=3), "code": SourceConfig(str(other), max_epochs=2.5)},
        stages={"anneal": StageConfig(from_tokens=40_001, weights={"web": 1, "code": 3})},
        mixture_block=64,
        **settings,
    )


def tokens_in(corpus: Path, split: str) -> list[np.ndarray]:
    """The members with tokens of a split, read with tarfile."""
    members = []
    for shard in sorted(corpus.glob(f"{split}-*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar.getmembers():
                file = tar.extractfile(member)
                assert file is not None
                if member.name.endswith(".tokens.npy"):
                    members.append(np.load(io.BytesIO(file.read())))
    return members


def documents_in(corpus: Path, split: str) -> list[np.ndarray]:
    """The documents of a split, cut behind each EOT."""
    tokens = np.concatenate(tokens_in(corpus, split))
    ends = np.flatnonzero(tokens == Manifest.read(corpus).eot_id) + 1
    return np.split(tokens, ends)[:-1]


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_sizes_are_those_of_the_corpus(split: str, corpus: Path) -> None:
    (source,) = collect(config_of(DataConfig(str(corpus)))).sources
    found = source.train if split == "train" else source.held_out
    documents = documents_in(corpus, split)
    tokenizer = Tokenizer.from_file(str(corpus / "tokenizer.json"))
    num_text_bytes = sum(len(tokenizer.decode(document[:-1].tolist()).encode()) for document in documents)
    assert found.num_tokens == sum(map(len, documents))
    assert found.num_documents == len(documents)
    assert found.num_text_bytes == num_text_bytes
    assert found.bytes_per_token == num_text_bytes / sum(map(len, documents))
    assert found.num_members == len(tokens_in(corpus, split))
    shards = sorted(corpus.glob(f"{split}-*.tar"))
    assert (found.num_shards, found.size_bytes) == (len(shards), sum(shard.stat().st_size for shard in shards))


def test_the_lengths_are_those_of_the_documents(corpus: Path) -> None:
    (source,) = collect(config_of(DataConfig(str(corpus)))).sources
    lengths = [len(document) for document in documents_in(corpus, "train")]
    assert (source.lengths.num_documents, source.lengths.num_tokens) == (len(lengths), sum(lengths))
    by_bin = Counter(2 ** (length.bit_length() - 1) for length in lengths)
    assert {each.low: each.num_documents for each in source.lengths.bins if each.num_documents} == by_bin


def test_a_document_in_several_members_and_shards_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foretrain.data_pipeline.corpus.shard_writer.MAX_PART_BYTES", 100)
    write_texts(tmp_path / "texts", num_documents=30)
    prepare([tmp_path / "texts"], tmp_path / "corpus", **{**SMALL, "block_bytes": 100, "shard_tokens": 70})
    (source,) = collect(config_of(DataConfig(str(tmp_path / "corpus")))).sources
    lengths = [len(document) for document in documents_in(tmp_path / "corpus", "train")]
    assert source.train.num_shards > 2 * len(lengths)  # so that documents begin in few of the shards
    assert (source.lengths.num_documents, source.lengths.max) == (len(lengths), max(lengths))
    assert source.lengths.percentiles["50"] == sorted(lengths)[ceil(len(lengths) / 2) - 1]


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(1, 40) | st.integers(1, 2**40), max_size=30), min_size=1, max_size=12))
def test_lengths_are_counted_exactly_in_any_order_and_number_of_parts(parts: list[list[int]]) -> None:
    lengths = sorted(length for part in parts for length in part)
    if not lengths:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document_lengths, "MERGED_AT_ONCE", 8)
        counter = LengthCounter()
        for part in parts:
            counter.add(np.array(part, dtype=np.int64))
        found = counter.lengths()
        assert counter.lengths() == found
    n = len(lengths)
    assert (found.num_documents, found.num_tokens) == (n, sum(lengths))
    assert (found.min, found.max, found.mean) == (lengths[0], lengths[-1], sum(lengths) / n)
    assert found.percentiles == {str(p): lengths[ceil(p * n / 100) - 1] for p in PERCENTS}
    for each in found.bins:
        inside = [length for length in lengths if each.low <= length < 2 * each.low]
        assert (each.num_documents, each.num_tokens) == (len(inside), sum(inside))
    assert sum(each.num_documents for each in found.bins) == n
    assert found.bins[0].num_documents > 0
    assert found.bins[-1].num_documents > 0


@pytest.mark.parametrize("packing", ["windows", "best_fit"])
def test_epochs_and_shares_are_those_of_the_samples_that_a_run_draws(
    packing: str, corpus: Path, other_corpus: Path, tmp_path: Path
) -> None:
    config = config_of(mixed(corpus, other_corpus, packing=packing))
    config.data.cache.dir = str(tmp_path)
    stats = collect(config)
    assert stats.budget.num_samples == 8 * ceil(100_000 / (8 * SEQ_LEN)) == 8 * stats.budget.num_steps

    stream = open_data(config.data, SEQ_LEN).train
    drawn = [location.source.name for location in stream.locate(np.arange(stats.budget.num_samples))]
    first_of_stage = ceil(40_001 / SEQ_LEN)
    for source, expected in zip(stats.sources, stream.sources, strict=True):
        count = drawn.count(source.name)
        assert source.name == expected.name
        assert (source.num_drawn, source.drawn_share) == (count, count / len(drawn))
        assert source.epochs == count / expected.samples.num_samples
        before, after = (stage.drawn[source.name] for stage in stats.stages)
        assert (before, after) == (drawn[:first_of_stage].count(source.name), count - before)
    code, web = stats.sources
    assert (code.epochs, code.max_epochs, web.max_epochs) == (pytest.approx(2.5, abs=0.01), 2.5, None)
    assert (code.weight, web.weight) == (0.25, 0.75)
    assert [stage.name for stage in stats.stages] == ["", "anneal"]
    assert [stage.from_tokens for stage in stats.stages] == [0, first_of_stage * SEQ_LEN]
    assert stats.stages[1].to_tokens == stats.budget.num_tokens
    assert stats.stages[1].weights == {"code": 0.75, "web": 0.25}


def test_padding_is_that_of_the_samples_of_an_epoch(corpus: Path, tmp_path: Path) -> None:
    config = config_of(DataConfig(str(corpus), packing="best_fit"))
    config.data.cache.dir = str(tmp_path)
    (source,) = collect(config).sources
    stream = open_data(config.data, SEQ_LEN).train
    batch = stream.read(np.arange(source.packing.num_samples))
    assert batch.num_padding == source.packing.num_padding > 0
    lengths = [len(document) for document in documents_in(corpus, "train")]
    assert source.packing.truncated_share == sum(length > SEQ_LEN for length in lengths) / len(lengths)


def test_a_stage_that_the_run_does_not_reach_has_no_samples(corpus: Path, other_corpus: Path) -> None:
    stats = collect(config_of(mixed(corpus, other_corpus), num_tokens=10_000))
    reached, other = stats.stages
    assert sum(reached.drawn.values()) == stats.budget.num_samples
    assert (set(other.drawn.values()), other.from_tokens, other.to_tokens) == ({0}, 40_032, 40_032)
    assert "not reached" in shown(stats)


def test_a_run_longer_than_its_data_is_reported_and_counted_to_their_end(corpus: Path) -> None:
    sources = {"web": SourceConfig(str(corpus), max_epochs=1.5)}
    stats = collect(config_of(DataConfig(sources=sources)))
    (source,) = stats.sources
    assert source.num_drawn == stats.budget.num_available == int(1.5 * source.packing.num_samples)
    assert f"the data end after {source.num_drawn:,} of the run's {stats.budget.num_samples:,}" in shown(stats)


def test_both_orders_are_measured_whichever_the_run_uses(corpus: Path) -> None:
    shuffled, local = (
        collect(config_of(DataConfig(str(corpus), order=order, shuffle_window=40))) for order in ("shuffle", "local")
    )
    (source,) = shuffled.sources
    assert local.sources[0].shuffle == source.shuffle
    assert source.shuffle["shuffle"].shards_at_hand.value == source.train.num_shards
    assert source.shuffle["local"].shards_at_hand.value < source.train.num_shards
    assert source.shuffle["local"].neighbours_together.value > source.shuffle["local"].neighbours_together.ideal


def test_no_token_is_read(corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus, tmp_path / "corpus")
    for shard in (tmp_path / "corpus").glob("*.tar"):
        with tarfile.open(shard) as tar:
            members = [member for member in tar.getmembers() if member.name.endswith(".tokens.npy")]
        data = bytearray(shard.read_bytes())
        for member in members:
            end = member.offset_data + member.size
            data[member.offset_data + 128 : end] = b"\xff" * (member.size - 128)
        shard.write_bytes(data)
    (before,), (after,) = (
        collect(config_of(DataConfig(str(folder)))).sources for folder in (corpus, tmp_path / "corpus")
    )
    assert (after.lengths, after.packing) == (before.lengths, before.packing)


def shown(stats: Stats, *, width: int = 80, terminal: bool = False) -> str:
    """The text that is printed, without colours."""
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, legacy_windows=False)
    print_stats(stats, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO above
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize("width", [60, 200])
def test_everything_is_shown_in_ascii_if_the_output_is_no_terminal(
    width: int, corpus: Path, other_corpus: Path
) -> None:
    stats = collect(config_of(mixed(corpus, other_corpus)))
    text = shown(stats, width=width)
    assert text.isascii()
    for source in stats.sources:
        for number in (source.train.num_tokens, source.train.num_text_bytes, source.held_out.num_documents):
            assert f" {number:,} " in text
        assert f" {source.epochs:.3f} " in text
        assert f" {source.train.bytes_per_token:.3f} " in text
        assert f"{source.name}: " in text
        assert f"Documents of {source.name} by length" in text
    assert text.count("<- seq_len") == len([s for s in stats.sources if s.lengths.min < 2 * SEQ_LEN])
    assert text.count("shards at hand: ") == 1
    assert "█" in shown(stats, width=width, terminal=True)


@given(st.floats(0, 1), st.integers(1, 60))
def test_a_bar_is_as_long_as_its_share_and_never_wider_than_its_column(share: float, width: int) -> None:
    plain, fancy = bar(share, width, fancy=False), bar(share, width, fancy=True)
    for drawn in (plain, fancy):
        assert bool(drawn) == (share > 0)
        assert len(drawn) <= width
    assert set(plain) <= {"#"}
    assert abs(len(plain) - share * width) <= 1
    assert len(fancy) == ceil(max(share > 0, round(share * width * 8)) / 8)


def test_every_number_can_be_written_as_json(corpus: Path) -> None:
    stats = collect(config_of(DataConfig(str(corpus))))
    values = asdict(stats)
    assert values["sources"][0]["train"]["num_tokens"] == stats.sources[0].train.num_tokens

    def leaves(value: Any) -> list[Any]:
        if isinstance(value, dict | list):
            return [leaf for item in (value.values() if isinstance(value, dict) else value) for leaf in leaves(item)]
        return [value]

    assert {type(leaf) for leaf in leaves(values)} <= {int, float, str, type(None)}  # no numpy number among them
