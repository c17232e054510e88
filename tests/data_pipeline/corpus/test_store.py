"""Folders as stores, and which store a path means."""

import os
import pickle
from pathlib import Path

import pytest

from foretrain.data_pipeline.corpus.opening import open_store
from foretrain.data_pipeline.corpus.store import FolderStore, Store, StoreCounts
from foretrain.data_pipeline.errors import CorpusError
from tests.data_pipeline.corpus.store_workers import contents


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "train-000000.tar").write_bytes(bytes(range(256)) * 10)
    (folder / "manifest.json").write_text("{}")
    return folder


def test_a_folder_store_opens_the_files_of_the_folder(folder: Path) -> None:
    store = FolderStore(folder)
    assert store.is_local and store.url == str(folder)
    assert contents(store, "train-000000.tar") == (folder / "train-000000.tar").read_bytes()
    assert store.read("manifest.json") == b"{}"
    assert store.path("manifest.json") == folder / "manifest.json"


def test_files_are_opened_for_reading_only_and_not_inherited(folder: Path) -> None:
    file = FolderStore(folder).open("train-000000.tar")
    assert not os.get_inheritable(file)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(file, b"x")
    os.close(file)


@pytest.mark.parametrize("ask", [FolderStore.open, FolderStore.read, FolderStore.path])
def test_a_missing_file_is_named(folder: Path, ask: object) -> None:
    assert callable(ask)
    with pytest.raises(CorpusError, match=r"val-000000\.tar is missing: bring it back"):
        ask(FolderStore(folder), "val-000000.tar")


def test_a_folder_store_fetches_nothing_and_counts_nothing(folder: Path) -> None:
    store = FolderStore(folder)
    store.expect("train-000000.tar", 1, "00")
    store.prefetch(["train-000000.tar", "missing"])
    contents(store, "train-000000.tar")
    store.close()
    assert store.counts == StoreCounts(0, 0, 0, 0)


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_plain_paths_and_file_urls_are_folders(folder: Path, prefix: str) -> None:
    store = open_store(f"{prefix}{folder}")
    assert isinstance(store, FolderStore) and store.read("manifest.json") == b"{}"
    copy: Store = pickle.loads(pickle.dumps(store))
    assert copy.read("manifest.json") == b"{}"


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("nosuch://bucket/corpus", r"nosuch://bucket/corpus cannot be read .*give a folder, http"),
        ("pipe:cat corpus", r"pipe:cat corpus has no \{\}: put \{\} where the command needs the name"),
    ],
)
def test_a_url_of_no_known_kind_is_refused(url: str, what: str) -> None:
    with pytest.raises(CorpusError, match=what):
        open_store(url)


def test_a_backend_that_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec.core

    def missing(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(CorpusError, match=r"pip install 'foretrain\[remote\]' \(Install s3fs to access S3\)"):
        open_store("s3://bucket/corpus")
