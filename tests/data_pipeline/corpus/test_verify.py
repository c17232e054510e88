"""The manifest of a corpus, and `verify`, which reads every byte."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from foretrain.data_pipeline.corpus import check
from foretrain.data_pipeline.corpus.manifest import Manifest, ShardInfo, index_name
from foretrain.data_pipeline.corpus.shards import open_corpus
from foretrain.data_pipeline.corpus.store import FolderStore
from foretrain.data_pipeline.corpus.verify import verify
from foretrain.data_pipeline.errors import CorpusError

SHARD = "train-000001.tar"


@pytest.fixture
def copy(corpus: Path, tmp_path: Path) -> Path:
    """A corpus that the test may damage."""
    return Path(shutil.copytree(corpus, tmp_path / "corpus"))


def _replaced(manifest: Manifest, **shard_fields: Any) -> Manifest:
    """Return a manifest in which the first train shard has other fields, with matching sums."""
    train = manifest.splits["train"]
    first = dataclasses.replace(train.shards[0], **shard_fields)
    train = dataclasses.replace(train, shards=[first, *train.shards[1:]])
    sums = {name: sum(getattr(shard, name) for shard in train.shards) for name in ("num_tokens", "num_documents")}
    return dataclasses.replace(manifest, splits={**manifest.splits, "train": dataclasses.replace(train, **sums)})


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("num_tokens", r"train.index.npy and the manifest disagree on the tokens of train-000000.tar"),
        ("num_members", r"train.index.npy holds int64 of shape"),
        ("size_bytes", r"train-000000.tar has \d+ bytes"),
    ],
)
def test_a_manifest_that_disagrees_with_the_files_is_found_at_open_and_by_verify(
    copy: Path, field: str, message: str
) -> None:
    manifest = Manifest.read(copy)
    first: ShardInfo = manifest.splits["train"].shards[0]
    _replaced(manifest, **{field: getattr(first, field) + 1}).write(copy)
    with pytest.raises(CorpusError, match=message):
        open_corpus(copy, "train")
    with pytest.raises(CorpusError, match=message):
        verify(copy)


def test_a_manifest_of_another_version_or_with_other_bytes_is_refused(copy: Path) -> None:
    manifest = copy / "manifest.json"
    original = manifest.read_text()
    fields = json.loads(original)
    assert fields["version"] == 2
    manifest.write_text(json.dumps({**fields, "version": 1}))
    with pytest.raises(CorpusError, match="has version 1, not 2: prepare the corpus again"):
        open_corpus(copy, "train")
    others = ["{", "[]", "{}", json.dumps({**fields, "eot_id": 1}), original + " ", json.dumps({**fields, "extra": 1})]
    for text in others:
        manifest.write_text(text)
        with pytest.raises(CorpusError, match="is damaged"):
            open_corpus(copy, "train")
    manifest.unlink()
    with pytest.raises(CorpusError, match="not a finished corpus"):
        open_corpus(copy, "train")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("splits", 5),
        ("dtype", "object"),
        ("eot_id", 10**6),
        ("eot_id", -1),
        ("vocab_size", "5"),
        ("sources", [1]),
        ("unigram_entropy_nats", float("nan")),
        ("held_out_unigram_nats", float("inf")),
        ("held_out_unigram_nats", "3"),
        ("tokenizer_sha256", None),
    ],
)
def test_a_manifest_with_impossible_fields_is_refused(copy: Path, field: str, value: Any) -> None:
    manifest = Manifest.read(copy)
    object.__setattr__(manifest, field, value)
    manifest.write(copy)
    with pytest.raises(CorpusError, match="is damaged"):
        Manifest.read(copy)


def test_the_name_of_a_shard_cannot_leave_the_folder(copy: Path) -> None:
    manifest = Manifest.read(copy)
    for name in ("../train-000000.tar", "/etc/passwd", "val-000000.tar"):
        _replaced(manifest, name=name).write(copy)
        with pytest.raises(CorpusError, match="is damaged"):
            Manifest.read(copy)


def test_a_sound_corpus_passes_verify(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(corpus, progress=True) == Manifest.read(corpus)
    assert "verifying" in capsys.readouterr().err
    assert verify(FolderStore(corpus)) == Manifest.read(corpus)


def test_a_flipped_bit_in_the_tokens_is_found_by_verify(copy: Path) -> None:
    data = bytearray((copy / SHARD).read_bytes())
    data[700] ^= 1
    (copy / SHARD).write_bytes(data)
    open_corpus(copy, "train")  # the structure is undamaged
    with pytest.raises(CorpusError, match=f"{SHARD} has other bytes"):
        verify(copy)


def test_verify_lists_every_fault_at_once(copy: Path) -> None:
    (copy / "tokenizer.json").write_text("{}")
    shutil.copy(copy / SHARD, copy / "train-000099.tar")
    (copy / index_name("val")).unlink()
    shutil.copy(copy / "train-000099.tar", copy / "train-000000.tar")
    with (copy / SHARD).open("ab") as file:
        file.write(b"x")
    with pytest.raises(CorpusError) as error:
        verify(copy)
    lines = str(error.value).splitlines()
    assert len(lines) == 5
    expected = ["tokenizer.json has other bytes", "train-000000.tar", SHARD, "val.index.npy is missing"]
    for part, line in zip([*expected, "train-000099.tar is not in the manifest"], lines, strict=True):
        assert part in line


def test_verify_continues_after_a_file_that_cannot_be_read(corpus: Path) -> None:
    class Failing(FolderStore):
        def open(self, name: str) -> int:
            if name == SHARD:
                raise PermissionError(13, "Permission denied")
            return super().open(name)

    with pytest.raises(CorpusError, match=rf"^.*{SHARD} cannot be read \(Permission denied\).*$"):
        verify(Failing(corpus))


def test_the_first_check_of_a_large_corpus_shows_its_progress(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    open_corpus(copy, "train", progress=True)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(check, "LONG_BYTES", 0)
    (copy / "train-000000.tar").touch()  # so that it is checked again
    open_corpus(copy, "train", progress=True)
    assert re.search(r"checking .*: \d+\.\d of \d+\.\d MB", capsys.readouterr().err)
