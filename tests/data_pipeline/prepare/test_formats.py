"""Files of other tools: the texts and tokens of each are those that its own library reads."""

import csv
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.documents import DocumentReader
from tests.data_pipeline.prepare.reading import ATTACK, read, read_tokens

fields = st.text(alphabet='ab",\t\n\ré\ufeff\0 ', max_size=8)


@settings(max_examples=30)
@given(rows=st.lists(st.tuples(fields, fields), max_size=6), kind=st.sampled_from(["csv", "tsv"]), bom=st.booleans())
def test_rows_are_those_that_csv_reads(folder: Path, rows: list[tuple[str, str]], kind: str, bom: bool) -> None:
    file, dialect = folder / f"a.{kind}", "excel" if kind == "csv" else "excel-tab"
    with file.open("w", newline="", encoding="utf-8-sig" if bom else "utf-8") as out:
        writer = csv.writer(out, dialect, quoting=csv.QUOTE_ALL)
        writer.writerows([("id", "body"), *rows])
    with file.open(newline="", encoding="utf-8-sig") as lines:
        theirs = [row["body"] for row in csv.DictReader(lines, dialect=dialect)]
    assert read(file, text_key="body") == [text for text in theirs if text]
    (folder / f"b.{kind}.gz").write_bytes(gzip.compress(file.read_bytes()))
    assert read(folder / f"b.{kind}.gz", text_key="body") == read(file, text_key="body")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id,body\n1,x\n", r"a\.csv has no column 'text'; its first row is \['id', 'body'\].*--text-key"),
        (b"text,text\n1,x\n", r"a\.csv has several columns 'text'"),
        (b"id,text\n1,a, b\n", r"a\.csv:2: the row that ends here has 3 fields, and the first row 2"),
        (b'id,text\n1,"cut\nshort', r"a\.csv:3 is no row of \.csv \(unexpected end of data\)"),
        (b'id,text\n1,"a"b\n', r"a\.csv:2 is no row of \.csv"),
    ],
)
def test_a_bad_table_is_named_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        read(tmp_path / "a.csv")


def test_invalid_utf8_in_a_field_is_replaced_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"n,text\n\xff,caf\xe9\n2,good\n")
    documents = DocumentReader([tmp_path / "a.csv"])
    assert (list(documents), documents.num_replaced) == (["caf\ufffd", "good"], 1)


def test_a_row_of_npy_is_one_document_as_numpy_reads_it(tmp_path: Path) -> None:
    rows = np.arange(1, 41, dtype=">u2").reshape(8, 5)
    rows[3, 2], rows[5, 3:] = 0, 0  # an EOT ends a document here too, and padding is none
    for name, array in (("c", rows), ("fortran", np.asfortranarray(rows))):
        np.save(tmp_path / f"{name}.npy", array)
        theirs = np.load(tmp_path / f"{name}.npy", allow_pickle=False).tolist()
        split = [theirs[3][:2], theirs[3][3:], theirs[4], theirs[5][:3]]
        assert read_tokens(tmp_path / f"{name}.npy") == [*theirs[:3], *split, *theirs[6:]]
    np.save(tmp_path / "row.npy", rows.reshape(-1))
    assert read_tokens(tmp_path / "row.npy") == [list(range(1, 18)), list(range(19, 29)), list(range(31, 41))]
    with pytest.raises(CorpusError, match=r"row\.npy holds tokens: give the tokenizer\.json .* --tokenizer"):
        read(tmp_path / "row.npy")


def test_long_arrays_are_read_in_pieces(tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(0, 300, 200_000, dtype=np.int32)
    np.save(tmp_path / "row.npy", tokens)
    np.save(tmp_path / "rows.npy", tokens.reshape(-1, 400))
    ends = np.flatnonzero(tokens == 0)
    expected = [part[part != 0].tolist() for part in np.split(tokens, ends)]
    assert read_tokens(tmp_path / "row.npy") == [part for part in expected if part]
    assert sum(map(len, read_tokens(tmp_path / "rows.npy"))) == np.count_nonzero(tokens)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([["a"]]), r"is <U1 of shape \(1, 1\), and neither a row of integers nor rows"),
        (np.array([{}], dtype=object), "is object of shape"),
        (np.array([[5, 300]]), "token number 1 is 300, but the vocabulary has 300"),
    ],
)
def test_arrays_that_are_no_tokens_are_refused_and_nothing_is_unpickled(
    tmp_path: Path, array: Any, message: str
) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(CorpusError, match=rf"a\.npy.* {message}"):
        read_tokens(tmp_path / "a.npy")


def test_arrays_whose_header_does_not_fit_their_bytes_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((4, 4), dtype=np.uint16))
    sound = (tmp_path / "a.npy").read_bytes()
    for data, message in (
        (sound[:-1], "is cut short"),
        (sound + b"\0", "has more bytes than those of 16 tokens"),
        (sound.replace(b"(4, 4)", b"(4, 9999999999)"), r"a row has more than [\d,]+ bytes"),
        (sound.replace(b"(4, 4)", b"(9999999999, 4)"), "is cut short"),
        (sound.replace(b"(4, 4)", b"(9999999999, 0)"), "has more bytes than those of 0 tokens"),
    ):
        (tmp_path / "a.npy").write_bytes(data)
        with pytest.raises(CorpusError, match=message):
            read_tokens(tmp_path / "a.npy")


def test_a_link_to_a_file_without_an_ending_is_read_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "8fd3").write_text('{"text": "linked"}\n')
    (tmp_path / "a.jsonl").symlink_to("blobs/8fd3")
    assert read(tmp_path / "a.jsonl") == read(tmp_path) == ["linked"]


def test_names_in_tables_reach_messages_without_control_characters(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"{ATTACK},b\n1,2\n")
    with pytest.raises(CorpusError) as found:
        read(tmp_path)
    assert r"\x1b[2J" in str(found.value) and ATTACK not in str(found.value)
