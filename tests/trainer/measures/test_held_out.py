"""The held-out sets that `foretrain eval` measures a model on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer

from foretrain.configs.data import DataConfig
from foretrain.configs.schema import Config, ModelConfig
from foretrain.data_pipeline.corpus.manifest import TOKENIZER
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.build import prepare
from foretrain.trainer.measures.held_out import held_out_sets
from tests.data_pipeline.samples import write_texts


def test_each_named_set_of_a_corpus_is_measured_beside_its_val_split(tmp_path: Path) -> None:
    texts, data = write_texts(tmp_path / "texts", 12), tmp_path / "data"
    prepare([texts], data, val_sets={"some": [texts / "000.txt"], "more": [texts / "001.txt"]}, vocab_size=300)
    prepare([texts], tmp_path / "other", vocab_size=280)
    config = Config(model=ModelConfig(seq_len=32), data=DataConfig(path=str(data)))
    model: Any = SimpleNamespace(config=config, tokenizer=Tokenizer.from_file(str(data / TOKENIZER)))
    for given, name in (([], str(data)), ([f"x={data}"], "x"), ([str(data)], str(data))):
        found = held_out_sets(model, given)
        assert {each: stream.split for each, stream in found.items()} == {
            name: "val",
            f"{name}/more": "val-more",
            f"{name}/some": "val-some",
        }
    with pytest.raises(CorpusError, match="other was prepared with another tokenizer than the model's"):
        held_out_sets(model, [str(tmp_path / "other")])
