"""The preparation of a corpus: complete or absent, repeatable, and refused if it cannot be used."""

import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from foretrain.data_pipeline.corpus.manifest import Manifest, sha256_of
from foretrain.data_pipeline.corpus.shards import open_corpus
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.build import is_current, prepare
from foretrain.data_pipeline.prepare.tokenizer import train_tokenizer
from foretrain.data_pipeline.prepare.tokenizer_folder import GivenTokenizer, given_tokenizer
from tests.data_pipeline.samples import SMALL, write_texts


def decoded(corpus: Path, split: str) -> list[str]:
    stream = open_corpus(corpus, split)
    tokens = stream.read(0, stream.num_tokens)
    assert tokens[-1] == stream.eot_id
    ends = np.flatnonzero(tokens == stream.eot_id)
    tokenizer = Tokenizer.from_file(str(corpus / "tokenizer.json"))
    return [tokenizer.decode(part[part != stream.eot_id].tolist()) for part in np.split(tokens, ends[:-1] + 1)]


def test_every_document_is_in_exactly_one_split(texts: Path, corpus: Path) -> None:
    written = sorted(file.read_text(encoding="utf-8") for file in texts.iterdir())
    train, val = decoded(corpus, "train"), decoded(corpus, "val")
    assert val
    assert sorted(train + val) == written


def test_the_manifest_says_what_the_shards_hold(texts: Path, corpus: Path) -> None:
    manifest = Manifest.read(corpus)
    assert manifest.dtype == "uint16"
    assert manifest.vocab_size == SMALL["vocab_size"]
    assert manifest.tokenizer_sha256 == sha256_of(corpus / "tokenizer.json")
    assert sum(split.num_documents for split in manifest.splits.values()) == len(list(texts.iterdir()))
    text_bytes = sum(file.stat().st_size for file in texts.iterdir())
    assert sum(split.num_bytes for split in manifest.splits.values()) == text_bytes
    assert [(source.path, source.num_files, source.size_bytes) for source in manifest.sources] == [
        (str(texts.resolve()), 60, text_bytes)
    ]
    assert len(manifest.splits["train"].shards) > 2
    for split in manifest.splits.values():
        assert split.num_tokens == sum(shard.num_tokens for shard in split.shards)
        assert all(shard.sha256 == sha256_of(corpus / shard.name) for shard in split.shards)
    names = {shard.name for split in manifest.splits.values() for shard in split.shards}
    written = {file.name for file in corpus.iterdir() if not file.name.startswith(".")}
    assert written == names | {
        "manifest.json",
        "tokenizer.json",
        "train.index.npy",
        "val.index.npy",
    }


def test_the_unigram_entropy_is_that_of_the_train_tokens(corpus: Path) -> None:
    stream = open_corpus(corpus, "train")
    counts = Counter(stream.read(0, stream.num_tokens).tolist())
    entropy_nats = -sum(c / stream.num_tokens * math.log(c / stream.num_tokens) for c in counts.values())
    assert Manifest.read(corpus).unigram_entropy_nats == pytest.approx(entropy_nats)


def test_the_held_out_unigram_loss_is_that_of_the_val_tokens(corpus: Path) -> None:
    train, val = (open_corpus(corpus, split) for split in ("train", "val"))
    manifest = Manifest.read(corpus)
    counts = Counter(train.read(0, train.num_tokens).tolist())
    total = train.num_tokens + manifest.vocab_size
    losses = [-math.log((counts[token] + 1) / total) for token in val.read(0, val.num_tokens).tolist()]
    assert manifest.held_out_unigram_nats == pytest.approx(sum(losses) / len(losses))


def test_another_process_writes_the_same_corpus_byte_for_byte(texts: Path, corpus: Path, tmp_path: Path) -> None:
    arguments = f"[{str(texts)!r}], {str(tmp_path / 'again')!r}, **{SMALL!r}"
    code = f"from foretrain.data_pipeline.prepare.build import prepare; prepare({arguments})"
    subprocess.run([sys.executable, "-c", code], check=True)
    for file in corpus.glob("[!.]*"):  # readers write hidden files
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_given_tokenizer_is_copied_and_used(texts: Path, tmp_path: Path) -> None:
    given = tmp_path / "given.json"
    train_tokenizer(iter(["abc " * 9]), 260).save(str(given))
    manifest = prepare([texts], tmp_path / "out", tokenizer_path=given)
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == given.read_bytes()
    assert manifest.vocab_size == 260
    with pytest.raises(CorpusError, match="--eot-token"):
        prepare([texts], tmp_path / "other", tokenizer_path=given, eot_token="[END]")


def test_a_vocabulary_above_65536_is_stored_in_four_bytes(texts: Path, tmp_path: Path) -> None:
    words = {f"word{number}": number for number in range(2**16)}
    large = Tokenizer(models.WordLevel({**words, "</s>": 2**16}, unk_token="word0"))
    large.save(str(tmp_path / "large.json"))
    manifest = prepare([texts], tmp_path / "out", tokenizer_path=tmp_path / "large.json")
    assert (manifest.dtype, manifest.vocab_size, manifest.eot_id) == ("uint32", 2**16 + 1, 2**16)
    stream = open_corpus(tmp_path / "out", "train")
    assert stream.read(stream.num_tokens - 1, 1).tolist() == [2**16]


def test_the_tokenizer_is_trained_on_text_from_all_over_the_corpus(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"{number:03d}.txt").write_text(("early " if number < 50 else "lately ") * 100)
    prepare([tmp_path], tmp_path / "out", **{**SMALL, "train_tokenizer_bytes": 5000})
    vocabulary = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")).get_vocab()
    assert "early" in vocabulary
    assert "lately" in vocabulary


@pytest.mark.parametrize(
    ("files", "end"),
    [
        ({"tokenizer_config.json": {"eos_token": "b", "bos_token": "c"}}, "b"),
        (
            {"tokenizer_config.json": {"eos_token": {"content": "b"}}, "special_tokens_map.json": {"eos_token": "c"}},
            "b",
        ),
        ({"tokenizer_config.json": {"eos_token": None}, "special_tokens_map.json": {"bos_token": "c"}}, "c"),
        ({}, None),
    ],
)
def test_the_folder_of_a_tokenizer_names_the_token_that_ends_documents(
    tmp_path: Path, files: dict[str, Any], end: str | None
) -> None:
    (tmp_path / "tokenizer.json").touch()
    for name, fields in files.items():
        (tmp_path / name).write_text(json.dumps(fields))
    assert given_tokenizer(tmp_path) == GivenTokenizer(tmp_path / "tokenizer.json", end)


def test_a_folder_with_a_tokenizer_is_used_as_one(texts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(CorpusError, match=r"model is a folder without a tokenizer\.json"):
        prepare([texts], tmp_path / "out", tokenizer_path=folder)
    tokenizer = train_tokenizer(iter(["abc " * 9]), 260)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "b"}')
    manifest = prepare([texts / "000.txt"], tmp_path / "out", tokenizer_path=folder)
    assert tokenizer.id_to_token(manifest.eot_id) == "b"
    assert sha256_of(folder / "tokenizer.json") == manifest.tokenizer_sha256
    assert is_current([texts / "000.txt"], tmp_path / "out", tokenizer_path=folder)
    assert not is_current([texts / "000.txt"], tmp_path / "out", tokenizer_path=folder, eot_token="a")
    (folder / "tokenizer_config.json").write_text("[")
    with pytest.raises(CorpusError, match=r"tokenizer_config\.json is not JSON"):
        prepare([texts], tmp_path / "another", tokenizer_path=folder)


@pytest.mark.parametrize("num_documents", [1, 2])
def test_one_document_is_enough_for_both_splits(num_documents: int, tmp_path: Path) -> None:
    manifest = prepare([write_texts(tmp_path / "in", num_documents)], tmp_path / "out", **SMALL)
    assert [manifest.splits[split].num_documents for split in ("train", "val")] == [1, 1]
    assert open_corpus(tmp_path / "out", "val").num_tokens > 0


def test_a_corpus_without_text_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").touch()
    with pytest.raises(CorpusError, match="the corpus is empty"):
        prepare([tmp_path / "in"], tmp_path / "out", **SMALL)
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": 257}, "vocab_size = 257 is too small"),
        ({"val_fraction": 0.0}, "val_fraction = 0.0 must be"),
        ({"val_fraction": 0.9}, "val_fraction = 0.9 must be"),
        ({"shard_tokens": 0}, "shard_tokens = 0 must be"),
        ({"token_dtype": "int8"}, "token_dtype = int8 must be uint16 or uint32"),
        ({"block_bytes": 5 << 20}, "block_bytes = 5242880 must be at most"),
        ({"tokenizer_path": "nowhere.json"}, r"tokenizer_path = nowhere\.json does not exist"),
    ],
)
def test_impossible_settings_are_refused_and_leave_nothing(
    texts: Path, tmp_path: Path, settings: dict, message: str
) -> None:
    with pytest.raises(CorpusError, match=message):
        prepare([texts], tmp_path / "out", **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_corpus_is_replaced_only_with_overwrite(texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare([texts], out, **SMALL)
    with pytest.raises(CorpusError, match=r"already holds a corpus.*--overwrite"):
        prepare([texts], out, **SMALL)
    replaced = prepare([texts], out, **{**SMALL, "vocab_size": 280}, overwrite=True)
    assert Manifest.read(out) == replaced
    assert replaced.vocab_size == 280
    assert list(tmp_path.iterdir()) == [out]


def test_no_file_that_prepare_did_not_write_is_ever_replaced(texts: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(CorpusError, match=r"holds thesis\.tex, which is no part of a corpus"):
        prepare([texts], tmp_path, **SMALL, overwrite=True)
    with pytest.raises(CorpusError, match="is a file"):
        prepare([texts], tmp_path / "thesis.tex", **SMALL, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_an_empty_folder_or_a_link_may_be_the_destination(texts: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    prepare([texts], tmp_path / "link", **SMALL)
    assert open_corpus(tmp_path / "link", "train").num_tokens > 0
    assert (tmp_path / "link").is_symlink()


def test_reuse_returns_at_once_while_inputs_and_settings_are_the_same(tmp_path: Path) -> None:
    texts, out = write_texts(tmp_path / "in", 10), tmp_path / "out"
    assert not is_current([texts], out, **SMALL)
    first = prepare([texts], out, **SMALL, reuse=True)
    written_ns = (out / "manifest.json").stat().st_mtime_ns
    assert is_current([texts], out, **SMALL)
    assert prepare([texts], out, **SMALL, reuse=True) == first
    assert (out / "manifest.json").stat().st_mtime_ns == written_ns

    assert not is_current([texts], out, **{**SMALL, "vocab_size": 280})
    os.utime(texts / "000.txt", ns=(1, 1))
    assert not is_current([texts], out, **SMALL)
    with pytest.raises(CorpusError, match="--overwrite"):
        prepare([texts], out, **SMALL, reuse=True)


def test_a_corpus_within_its_own_input_is_not_read_as_text(tmp_path: Path) -> None:
    texts = write_texts(tmp_path / "in", 10)
    first = prepare([texts], texts / "out", **SMALL)
    left = texts / ".out.partial-01234567"
    left.mkdir()
    (left / "train-000000.tar").write_bytes(b"unfinished")
    assert is_current([texts], texts / "out", **SMALL)
    assert prepare([texts], texts / "out", **SMALL, overwrite=True) == first
    with pytest.raises(CorpusError, match="out is a corpus of tokens already"):
        prepare([texts / "out"], tmp_path / "again", **SMALL)


def test_progress_without_a_terminal_is_printed_as_lines(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare([texts], tmp_path / "out", **SMALL, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.split(":")[0] for line in captured.err.splitlines()] == ["training the tokenizer", "tokenizing"]
    prepare([texts], tmp_path / "quiet", **SMALL)
    assert capsys.readouterr().err == ""
