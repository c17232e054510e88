"""A val split of the user's own files, and the warning about one that says little."""

import re
from pathlib import Path
from typing import Any

import pytest
import webdataset as wds

from foretrain.data_pipeline.corpus.manifest import Manifest
from foretrain.data_pipeline.corpus.shards import open_corpus
from foretrain.data_pipeline.corpus.verify import verify
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare import corpus_writer, documents, encode
from foretrain.data_pipeline.prepare.build import is_current, prepare
from foretrain.data_pipeline.prepare.held_out import warnings_about
from foretrain.data_pipeline.prepare.tokenizer import load_tokenizer
from tests.cli import called
from tests.data_pipeline.prepare.test_build import decoded
from tests.data_pipeline.samples import write_texts

SETTINGS: dict[str, Any] = {"vocab_size": 300, "block_bytes": 500, "shard_tokens": 700}


class Cut(BaseException):
    """An exception that can be raised anywhere, like Ctrl-C."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 20 documents, of which 4 are in a folder `held` inside of it."""
    folder = write_texts(tmp_path_factory.mktemp("texts") / "in", 16, seed=2)
    write_texts(folder / "held", 4, seed=3)
    (folder / "held" / "000.txt").write_text("zzzzzzzzqq " * 99)
    return folder


def texts_of(files: list[Path]) -> list[str]:
    return [file.read_text(encoding="utf-8") for file in sorted(files)]


def test_files_of_their_own_are_the_val_split_and_no_text_to_train_on(inputs: Path, tmp_path: Path) -> None:
    manifest = prepare([inputs], tmp_path / "out", val_inputs=[inputs / "held"], **SETTINGS)
    assert decoded(tmp_path / "out", "train") == texts_of([*inputs.glob("*.txt")])
    assert decoded(tmp_path / "out", "val") == texts_of([*inputs.glob("held/*.txt")])
    assert "zz" not in load_tokenizer(tmp_path / "out" / "tokenizer.json").get_vocab()
    assert [source.num_files for source in manifest.sources + manifest.val_sources] == [16, 4]
    assert Manifest.read(tmp_path / "out") == manifest
    assert is_current([inputs], tmp_path / "out", val_inputs=[inputs / "held"], **SETTINGS)
    assert not is_current([inputs], tmp_path / "out", **SETTINGS)


def test_a_share_of_the_other_documents_can_be_held_out_too(inputs: Path, tmp_path: Path) -> None:
    held = [inputs / "held" / f"{number:03d}.txt" for number in range(4)]
    manifest = prepare([inputs], tmp_path / "out", val_inputs=held, val_fraction=0.3, **SETTINGS)
    assert manifest.splits["val"].num_documents > 4
    assert manifest.splits["train"].num_documents + manifest.splits["val"].num_documents == 20
    assert set(texts_of(held)) <= set(decoded(tmp_path / "out", "val"))


def test_prepare_with_held_out_files_resumes_to_the_same_bytes(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = {"some": [inputs / "held" / "002.txt"]}
    given: dict[str, Any] = {"val_inputs": [inputs / "held"], "val_sets": sets, **SETTINGS}
    prepare([inputs], tmp_path / "all", **given)
    monkeypatch.setattr(corpus_writer, "JOURNAL_EVERY_S", 0.0)
    monkeypatch.setattr(encode, "BATCH_CHARS", 2000)
    add, left = corpus_writer.CorpusWriter.add, [10]

    def add_or_cut(*arguments: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Cut
        add(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(corpus_writer.CorpusWriter, "add", add_or_cut)
        with pytest.raises(Cut):
            prepare([inputs], tmp_path / "out", **given)
    opened: list[str] = []
    unpack = documents.unpack

    def counted(name: str, raw: Any) -> Any:
        opened.append(name)
        return unpack(name, raw)

    monkeypatch.setattr(documents, "unpack", counted)
    prepare([inputs], tmp_path / "out", **given)
    for file in (tmp_path / "all").iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes(), file.name
    assert len(opened) <= 11  # what was written before the stop is not read again


def test_held_out_files_that_leave_nothing_are_refused(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    for val, message in (
        (tmp_path / "empty.txt", r"the val split is empty: none of the 1 files of .*empty\.txt has any text"),
        (inputs, "--val names every file of the inputs"),
        (tmp_path / "nope", "nope does not exist"),
    ):
        with pytest.raises(CorpusError, match=message):
            prepare([inputs / "held"], tmp_path / "out", val_inputs=[val], **SETTINGS)
    with pytest.raises(CorpusError, match=r"val_fraction = 0.0 must be greater than 0, or give .* --val"):
        prepare([inputs], tmp_path / "out", val_fraction=0.0, **SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["empty.txt"]


def test_a_held_out_split_that_says_little_has_a_warning(inputs: Path, tmp_path: Path) -> None:
    small = prepare([inputs / "held"], tmp_path / "out", val_inputs=[inputs / "000.txt"], **SETTINGS)
    assert any("few documents (1, with" in line and "--val" in line for line in warnings_about(small))
    held = [inputs / f"{number:03d}.txt" for number in range(10)]
    large = prepare([inputs / "held" / "001.txt"], tmp_path / "out2", val_inputs=held, **SETTINGS)
    (line,) = warnings_about(large)
    assert "of the tokens are held out" in line
    assert open_corpus(tmp_path / "out2", "val").num_tokens > open_corpus(tmp_path / "out2", "train").num_tokens


def test_a_named_set_is_a_split_of_its_own_and_part_of_the_val_split(inputs: Path, tmp_path: Path) -> None:
    held, sets = inputs / "held", {"second": [inputs / "held" / "002.txt"], "first": [inputs / "held" / "001.txt"]}
    given: dict[str, Any] = {"val_inputs": [held], "val_sets": sets, **SETTINGS}
    manifest = prepare([inputs], tmp_path / "out", **given)
    assert list(manifest.splits) == ["train", "val", "val-first", "val-second"]
    assert decoded(tmp_path / "out", "train") == texts_of([*inputs.glob("*.txt")])
    assert decoded(tmp_path / "out", "val-first") == texts_of([held / "001.txt"])
    assert decoded(tmp_path / "out", "val-second") == texts_of([held / "002.txt"])
    assert sorted(decoded(tmp_path / "out", "val")) == sorted(texts_of([*held.glob("*.txt")]))
    assert {name: [each.path for each in found] for name, found in manifest.val_sets.items()} == {
        name: [str(path) for path in paths] for name, paths in sets.items()
    }
    assert [source.num_files for source in manifest.val_sources] == [2]
    assert any("set first of held-out files has few documents (1, " in line for line in warnings_about(manifest))
    assert is_current([inputs], tmp_path / "out", **given)
    renamed = {**given, "val_sets": {"second": sets["second"], "other": sets["first"]}}
    assert not is_current([inputs], tmp_path / "out", **renamed)
    prepare([inputs], tmp_path / "out", overwrite=True, **renamed)
    assert not [*(tmp_path / "out").glob("val-first*")]
    verify(tmp_path / "out")
    plain = wds.WebDataset(str(tmp_path / "out" / "val-other-000000.tar"), shardshuffle=False)
    assert [sorted(each) for each in plain] == [["__key__", "__local_path__", "__url__", "doc_lens.npy", "tokens.npy"]]


def test_names_and_files_that_cannot_be_sets_are_refused(inputs: Path, tmp_path: Path) -> None:
    file = inputs / "held" / "001.txt"
    for name in ("Code", "a-b", "../up", "1st", "a.b", "a\n"):
        with pytest.raises(CorpusError, match="a name of held-out files has lower-case letters"):
            prepare([inputs], tmp_path / "out", val_sets={name: [file]}, **SETTINGS)
    with pytest.raises(CorpusError, match=r"names .*001\.txt in two sets, all and one: leave it out of one of them"):
        prepare([inputs], tmp_path / "out", val_sets={"one": [file], "all": [inputs / "held"]}, **SETTINGS)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(CorpusError, match=r"the val-none split is empty: none of the 1 files"):
        prepare([inputs], tmp_path / "out", val_sets={"none": [tmp_path / "empty.txt"]}, **SETTINGS)


def test_the_command_line_takes_files_with_and_without_a_name(inputs: Path, tmp_path: Path) -> None:
    held = [inputs / "held" / f"{number:03d}.txt" for number in range(4)]
    given = ["--val", str(held[0]), "--val", f"a={held[1]}", "--val", f"b={held[2]}", "--val", f"a={held[3]}"]
    ended = called("prepare", str(inputs), *given, "--out", "out", "--vocab-size", "300", cwd=tmp_path)
    assert ended.status == 0 and re.search(r"out: val-a +[\d,]+ tokens in 2 documents", ended.out)
    manifest = Manifest.read(tmp_path / "out")
    assert [len(manifest.val_sources), *(len(each) for each in manifest.val_sets.values())] == [1, 2, 1]
