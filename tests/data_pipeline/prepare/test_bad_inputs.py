"""Broken inputs: one error about all of them, or one report about what was left out."""

import gzip
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from rich.console import Console

from foretrain.data_pipeline.corpus.manifest import Manifest
from foretrain.data_pipeline.corpus.report import InputReport
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.inspect.stats import collect
from foretrain.data_pipeline.inspect.stats_view import print_stats
from foretrain.data_pipeline.inspect.target import config_of
from foretrain.data_pipeline.prepare import corpus_writer, documents, encode
from foretrain.data_pipeline.prepare.bad_inputs import SetupError
from foretrain.data_pipeline.prepare.build import prepare
from foretrain.data_pipeline.prepare.documents import DocumentReader
from foretrain.data_pipeline.prepare.formats import parquet
from foretrain.data_pipeline.prepare.tokenizer import train_tokenizer
from tests.data_pipeline.prepare.test_build import decoded
from tests.data_pipeline.prepare.test_tar_documents import npy, write_tar
from tests.data_pipeline.samples import SMALL

BROKEN: dict[str, tuple[bytes, str]] = {
    "a.jsonl": (b'{"text": "good 1"}\n{"text": "cut\n{"body": "x"}\n[]\n{"text": "good 2"}\n', "line 2 is not JSON"),
    "b.txt.gz": (gzip.compress(b"text " * 500)[:-9], "cannot be read"),
    "c.txt.zst": (zstandard.compress(b"text " * 500)[:-2], "cannot be read"),
    "d.jsonl.gz": (b"not compressed", "cannot be read"),
    "e.csv": (b'id,text\n1,good 3\n2,a, b\n3,good 4\n4,"cut', "line 3: the row that ends here has 3 fields"),
    "f.tsv": (b"id\tbody\n1\tx\n", "has no column 'text'"),
    "g.npy": (npy([[1.5]]), "is float64 of shape"),
    "h.bin": (bytes(8), "h.idx is not the index of a Megatron data set"),
    "j.tar": (b"\1" * 1024, "is damaged at byte 0"),
}
"""Broken files: their names, their bytes, and what the report says first."""


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder with ten kinds of broken files, with good documents in and between them."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, (data, _) in BROKEN.items():
        (folder / name).write_bytes(data)
    (folder / "h.idx").write_bytes(b"no index")
    (folder / "k.txt").symlink_to("gone.txt")
    write_tar(folder / "l.tar", {"0.txt": b"good 5", "1.json": b"{", "2.txt": b"good 6"})
    (folder / "m.txt").write_bytes(b"good 7 caf\xe9")
    (folder / "n.PDF").touch()
    train_tokenizer(iter(["good text " * 9]), 300).save(str(tmp_path / "tokenizer.json"))
    return folder


def test_a_folder_of_ten_kinds_of_broken_files_ends_in_one_report(broken: Path, tmp_path: Path) -> None:
    out, tokenizer = tmp_path / "out", tmp_path / "tokenizer.json"
    manifest = prepare([broken], out, **SMALL, tokenizer_path=tokenizer, skip_bad=True)
    found: dict[str, list[str]] = {}
    for each in manifest.report.skipped:
        found.setdefault(Path(each.file).name, []).append(each.what)
    assert {name: len(whats) for name, whats in found.items()} == {
        **dict.fromkeys(BROKEN, 1),
        "a.jsonl": 3,
        "e.csv": 2,
        "k.txt": 1,
        "l.tar": 1,
    }
    assert manifest.report.num_skipped == len(manifest.report.skipped) == 14
    for name, (_, what) in BROKEN.items():
        assert found[name][0].startswith(what) or what in found[name][0], found[name]
    assert {Path(file).name: count for file, count in manifest.report.replaced.items()} == {"m.txt": 1}
    assert manifest.report.ignored == {".PDF": 1}
    texts = sorted(decoded(out, "train") + decoded(out, "val"))
    assert texts == [*(f"good {number}" for number in range(1, 7)), "good 7 caf\ufffd"]
    assert Manifest.read(out) == manifest


def test_stats_show_the_report_of_a_corpus_later(
    broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (broken / "\x1b[2J.jsonl").write_text("[")
    prepare([broken], out, **SMALL, tokenizer_path=tmp_path / "tokenizer.json", skip_bad=True)
    print_stats(collect(config_of(str(out), ["model.seq_len=8"])), Console(width=200))
    shown = capsys.readouterr().out
    assert "broken documents and files that were left out: 15" in shown
    assert "a.jsonl: line 2 is not JSON" in shown and r"\x1b[2J.jsonl: line 1 is not JSON" in shown
    assert "m.txt: 1" in shown and "1 .PDF" in shown


def test_without_the_option_one_error_names_all_that_is_broken_and_nothing_is_left(
    broken: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {**SMALL, "tokenizer_path": tmp_path / "tokenizer.json"}
    with pytest.raises(CorpusError) as error:
        prepare([broken], tmp_path / "out", **settings)
    lines = str(error.value).splitlines()
    assert lines[0] == "14 errors, which --skip-bad would leave out:"
    places = ["k.txt is not a file", "a.jsonl:2", "a.jsonl:3", "a.jsonl:4", "b.txt.gz cannot be read"]
    assert [place in line for place, line in zip(places, lines[1:6], strict=True)] == [True] * 5
    assert lines[-1] == "  and 4 more"
    assert len(lines) == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "tokenizer.json"]
    with pytest.raises(CorpusError, match=r"2 errors.*\n.*nope1 does not exist.*\n.*nope2 does not exist"):
        prepare([tmp_path / "nope1", broken, tmp_path / "nope2"], tmp_path / "out", skip_bad=True)


def test_what_follows_an_error_is_read_for_other_errors_and_no_document_of_it_is_used(broken: Path) -> None:
    used: list[Any] = []
    with pytest.raises(CorpusError, match=r"a\.jsonl:4(?s:.*)e\.csv:3"):
        used.extend(DocumentReader([broken / "a.jsonl", broken / "m.txt", broken / "e.csv"]))
    assert used == ["good 1"]


def test_what_is_not_the_fault_of_a_file_is_never_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", np.arange(9))
    (tmp_path / "b.txt").write_text("text")
    with pytest.raises(SetupError, match="--tokenizer"):
        [*DocumentReader([tmp_path / "a.npy", tmp_path / "b.txt"], skip_bad=True)]

    def fails(name: str, raw: Any) -> Any:
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(documents, "unpack", fails)
    with pytest.raises(CorpusError, match="Input/output error"):
        [*DocumentReader([tmp_path / "b.txt"], skip_bad=True)]


def test_a_table_for_which_there_is_too_little_memory_is_never_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"]}), tmp_path / "a.parquet")

    def fails(*arguments: Any) -> Any:
        raise pyarrow.ArrowMemoryError("malloc of size 64 failed")

    monkeypatch.setattr(parquet, "column_of", fails)
    with pytest.raises(SetupError, match=r"a\.parquet needs more memory than there is \(malloc of size 64 failed\)"):
        [*DocumentReader([tmp_path / "a.parquet"], skip_bad=True)]


def test_a_corpus_of_broken_files_alone_is_refused_with_the_report(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("[]\n")
    with pytest.raises(CorpusError, match=r"the corpus is empty: (?s:.*)a\.jsonl: line 1 is not a JSON object"):
        prepare([tmp_path / "a.jsonl"], tmp_path / "out", **SMALL, skip_bad=True)


def test_the_report_is_the_same_after_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(12):
        lines = [json.dumps({"text": f"document {number} {line} " * 9}) for line in range(3)]
        (folder / f"{number:02}.jsonl").write_bytes("\n".join([*lines, "[]", "\xff"]).encode("latin-1"))
    settings: dict[str, Any] = {**SMALL, "val_fraction": 0.4, "skip_bad": True}
    expected = prepare([folder], tmp_path / "all", **settings)
    monkeypatch.setattr(corpus_writer, "JOURNAL_EVERY_S", 0.0)
    monkeypatch.setattr(encode, "BATCH_CHARS", 300)
    add = corpus_writer.CorpusWriter.add

    def stopping(left: list[int]) -> Callable[..., None]:
        def add_or_stop(*given: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            add(*given)

        return add_or_stop

    with monkeypatch.context() as patch:
        patch.setattr(corpus_writer.CorpusWriter, "add", stopping([25]))
        with pytest.raises(KeyboardInterrupt):
            prepare([folder], tmp_path / "out", **settings)
    assert prepare([folder], tmp_path / "out", **settings) == expected
    assert expected.report.num_skipped == 24


def test_a_manifest_with_a_report_of_other_types_is_refused(corpus: Path) -> None:
    for wrong in (
        {"num_skipped": "9"},
        {"skipped": [{"file": 1, "what": ""}]},
        {"ignored": {".pdf": "many"}},
        {"x": 1},
    ):
        fields: dict[str, Any] = {"skipped": [], **wrong}
        with pytest.raises(TypeError):
            InputReport.from_fields(fields)


def test_a_broken_archive_keeps_what_is_before_the_damage(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", {f"{number}.txt": b"text" for number in range(4)})
    with tarfile.open(shard) as tar:
        at = tar.getmembers()[2].offset
    data = bytearray(shard.read_bytes())
    data[at] ^= 1
    shard.write_bytes(data)
    reader = DocumentReader([shard], skip_bad=True)
    assert list(reader) == ["text"]  # the member before the damage may be one of several of its sample
    assert [f"is damaged at byte {at}" in each.what for each in reader.bad] == [True]
