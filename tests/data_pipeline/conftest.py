"""A small corpus of several shards, prepared once."""

from pathlib import Path

import pytest

from foretrain.data_pipeline.corpus.shards import TokenStream, open_corpus
from foretrain.data_pipeline.prepare.build import prepare
from tests.data_pipeline.samples import SMALL, write_texts


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of documents: read only."""
    return write_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="session")
def corpus(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished corpus: read only."""
    folder = tmp_path_factory.mktemp("corpora") / "corpus"
    prepare([texts], folder, **SMALL)
    return folder


@pytest.fixture(scope="session")
def stream(corpus: Path) -> TokenStream:
    """The train split of the corpus."""
    return open_corpus(corpus, "train")
