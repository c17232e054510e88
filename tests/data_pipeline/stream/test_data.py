"""The data of a run, as its config describes them."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foretrain.configs.data import DataConfig, SourceConfig, StageConfig
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.build import prepare
from foretrain.data_pipeline.stream.data import open_data
from tests.data_pipeline.samples import SMALL, write_texts

SEQ_LEN = 16


@pytest.fixture(scope="module")
def other(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second corpus of the same tokenizer: read only."""
    folder = tmp_path_factory.mktemp("other")
    texts = write_texts(folder / "texts", num_documents=20, seed=7)
    prepare([texts], folder / "corpus", tokenizer_path=corpus / "tokenizer.json", **SMALL)
    return folder / "corpus"


@pytest.fixture(scope="module")
def mixed(corpus: Path, other: Path) -> DataConfig:
    return DataConfig(
        sources={"web": SourceConfig(str(corpus), 0.7), "code": SourceConfig(str(other), 0.3, max_epochs=400)},
        stages={"end": StageConfig(160_000, {"code": 1.0}), "middle": StageConfig(80_000, {"web": 0.5, "code": 0.5})},
        mixture_block=64,
    )


def test_a_config_of_one_path_is_one_source_without_a_name(corpus: Path) -> None:
    data = open_data(DataConfig(str(corpus)), SEQ_LEN)
    assert [source.name for source in data.train.sources] == [""]
    assert [source.name for source in data.held_out] == [""]
    assert data.fingerprint == data.any_stream.fingerprint
    data.check_budget(10**12)
    state = data.state(1000)
    assert state == {
        "samples_consumed": 1000,
        "left_out": (),
        "seed": 0,
        "data_fingerprint": data.fingerprint,
        "mixture_fingerprint": data.mixture_fingerprint,
        "stage": "",
    }


def test_sources_are_mixed_by_name_whatever_their_order_in_the_config(mixed: DataConfig) -> None:
    data = open_data(mixed, SEQ_LEN)
    turned = open_data(replace(mixed, sources=dict(reversed(mixed.sources.items()))), SEQ_LEN)
    g = np.arange(10_000, 10_200)
    assert np.array_equal(data.train.read(g).tokens_BL, turned.train.read(g).tokens_BL)
    assert data.mixture_fingerprint == turned.mixture_fingerprint
    assert data.fingerprint == turned.fingerprint


def test_a_pickled_copy_reads_the_same(mixed: DataConfig) -> None:
    data = open_data(mixed, SEQ_LEN)
    copy = pickle.loads(pickle.dumps(data))
    assert np.array_equal(copy.train.read(np.arange(300)).tokens_BL, data.train.read(np.arange(300)).tokens_BL)
    assert len(pickle.dumps(data)) < 100_000, "the indices were pickled too"


def test_stages_begin_at_a_number_of_tokens_and_are_part_of_the_state(mixed: DataConfig) -> None:
    data = open_data(
        replace(mixed, sources={**mixed.sources, "code": SourceConfig(mixed.sources["code"].path)}), SEQ_LEN
    )
    assert [data.state(g)["stage"] for g in (0, 4999, 5000, 9999, 10_000)] == ["", "", "middle", "middle", "end"]
    assert {location.source.name for location in data.train.locate(np.arange(10_000, 10_500))} == {"code"}


@pytest.mark.parametrize(
    "change",
    [
        {"order": "local"},
        {"packing": "documents"},
        {"mixture_block": 128},
        {"stages": {}},
    ],
    ids=str,
)
def test_whatever_changes_the_samples_changes_the_mixtures_fingerprint(mixed: DataConfig, change: dict) -> None:
    before, after = open_data(mixed, SEQ_LEN), open_data(replace(mixed, **change), SEQ_LEN)
    assert before.mixture_fingerprint != after.mixture_fingerprint
    assert before.fingerprint == after.fingerprint
    assert open_data(mixed, SEQ_LEN + 1).mixture_fingerprint != before.mixture_fingerprint


def test_other_tokens_change_the_datas_fingerprint(mixed: DataConfig, corpus: Path) -> None:
    before = open_data(mixed, SEQ_LEN)
    after = open_data(replace(mixed, sources={**mixed.sources, "code": SourceConfig(str(corpus), 0.3, 400)}), SEQ_LEN)
    assert before.fingerprint != after.fingerprint
    assert before.fingerprints["web"] == after.fingerprints["web"]
    assert before.fingerprints["code"] != after.fingerprints["code"]


def test_a_budget_beyond_max_epochs_is_refused_with_the_number_of_samples(corpus: Path) -> None:
    data = open_data(DataConfig(sources={"web": SourceConfig(str(corpus), max_epochs=2)}), SEQ_LEN)
    available = 2 * data.train.sources[0].samples.num_samples
    data.check_budget(available)
    with pytest.raises(CorpusError, match=rf"max_epochs leave {available:,}.*train.num_tokens to {available * 16:,}"):
        data.check_budget(available + 1)


def test_a_source_that_cannot_be_opened_is_named(mixed: DataConfig, tmp_path: Path) -> None:
    broken = replace(mixed, sources={**mixed.sources, "code": SourceConfig(str(tmp_path / "gone"))})
    with pytest.raises(CorpusError, match=r"data\.sources\.code: .*gone"):
        open_data(broken, SEQ_LEN)


def test_sources_of_two_tokenizers_are_refused(mixed: DataConfig, tmp_path: Path) -> None:
    texts = write_texts(tmp_path / "texts", num_documents=10, seed=3)
    prepare([texts], tmp_path / "corpus", **{**SMALL, "vocab_size": 280})
    broken = replace(mixed, sources={**mixed.sources, "code": SourceConfig(str(tmp_path / "corpus"))})
    with pytest.raises(
        CorpusError, match=r"another tokenizer than data\.sources\.code: .*--tokenizer .*tokenizer\.json"
    ):
        open_data(broken, SEQ_LEN)


def test_a_held_out_split_of_one_token_is_refused(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("words " * 50)
    prepare([tmp_path / "texts"], tmp_path / "corpus", vocab_size=300)
    data = open_data(DataConfig(str(tmp_path / "corpus")), 4)
    assert all(source.stream.num_tokens >= 2 for source in data.held_out)
