"""Parquet and Arrow files: the texts and tokens that pyarrow reads, and errors for damaged and hostile tables."""

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain import limits
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.documents import DocumentReader
from tests import required
from tests.data_pipeline.prepare.reading import TOKENS, read


def pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        required.not_here("pyarrow is not installed")
    return pyarrow


def write_arrow(path: Path, table: Any, rows_at_once: int = 2, is_stream: bool = True) -> None:
    pa = pyarrow()
    new = pa.ipc.new_stream if is_stream else pa.ipc.new_file
    with path.open("wb") as file, new(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows_at_once)


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "binary", "dictionary"])
def test_columns_are_those_that_pyarrow_reads(tmp_path: Path, kind: str) -> None:
    pa = pyarrow()
    column = pa.array(["one", "zwei é\n", "", "one", "\ufefflong " * 99], pa.string())
    column = column.dictionary_encode() if kind == "dictionary" else column.cast(getattr(pa, kind)())
    table = pa.table({"n": range(5), "body": column})
    pa.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    write_arrow(tmp_path / "b.arrow", table)
    write_arrow(tmp_path / "c.arrow", table, is_stream=False)
    theirs = pa.parquet.read_table(tmp_path / "a.parquet")["body"].cast(pa.string()).to_pylist()
    for name in ("a.parquet", "b.arrow", "c.arrow"):
        assert read(tmp_path / name, text_key="body") == [text for text in theirs if text], name
    with pytest.raises(CorpusError, match=r"a\.parquet: the column 'text' is missing; .* \['body'\].*--text-key"):
        read(tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"b\.arrow: the column 'n' is int64; .*--text-key"):
        read(tmp_path / "b.arrow", text_key="n")


def test_invalid_utf8_in_a_column_of_strings_is_replaced_and_counted(tmp_path: Path) -> None:
    pa = pyarrow()
    table = pa.table({"text": pa.array([b"caf\xe9", b"good"], pa.binary()).view(pa.string())})
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    write_arrow(tmp_path / "b.arrow", table)
    for name in ("a.parquet", "b.arrow"):
        documents = DocumentReader([tmp_path / name])
        assert (list(documents), documents.num_replaced) == (["caf\ufffd", "good"], 1)


def test_columns_of_lists_are_tokens(tmp_path: Path) -> None:
    pa = pyarrow()
    table = pa.table({"input_ids": pa.array([[5, 6], [], [7, 0, 8]], pa.list_(pa.int32()))})
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    write_arrow(tmp_path / "b.arrow", table)
    for name in ("a.parquet", "b.arrow"):
        assert read(tmp_path / name, text_key="input_ids", token_format=TOKENS) == [[5, 6], [7], [8]]
        with pytest.raises(CorpusError, match=r"holds tokens: .*--tokenizer"):
            read(tmp_path / name, text_key="input_ids")


def test_a_folder_of_datasets_gives_the_files_that_it_names(tmp_path: Path) -> None:
    pa = pyarrow()
    names = [f"data-0000{number}-of-00002.arrow" for number in range(2)]
    for number, name in enumerate(names):
        write_arrow(tmp_path / name, pa.table({"text": [f"document {number}"]}))
    write_arrow(tmp_path / "cache-1234.arrow", pa.table({"text": ["left from map"]}))
    state = {"_data_files": [{"filename": name} for name in names], "_indices_data_files": None}
    (tmp_path / "state.json").write_text(json.dumps(state))
    (tmp_path / "dataset_info.json").write_text("{}")
    assert read(tmp_path) == ["document 0", "document 1"]
    (tmp_path / "state.json").write_text(json.dumps(state | {"_indices_data_files": [{"filename": "i.arrow"}]}))
    with pytest.raises(CorpusError, match=r"holds a selection of the rows .*flatten_indices"):
        read(tmp_path)
    (tmp_path / "state.json").write_text("[]")
    with pytest.raises(CorpusError, match=r"state\.json is not that of a data set"):
        read(tmp_path)


def test_damaged_tables_are_refused_by_name(tmp_path: Path) -> None:
    pa = pyarrow()
    table = pa.table({"text": [f"document {number}" * 50 for number in range(9)]})
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    write_arrow(tmp_path / "b.arrow", table)
    write_arrow(tmp_path / "c.arrow", table, is_stream=False)
    for name in ("a.parquet", "b.arrow", "c.arrow"):
        sound = (tmp_path / name).read_bytes()
        for damaged in (sound[: len(sound) // 2], b"", sound[:8], sound[:-8], bytes(len(sound))):
            (tmp_path / name).write_bytes(damaged)
            with pytest.raises(CorpusError, match=rf"{name} (is damaged|is cut short|cannot be read)"):
                read(tmp_path / name)


@pytest.fixture(scope="module")
def sound_tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of a table in each format, by the names of files."""
    pa, folder = pyarrow(), tmp_path_factory.mktemp("sound")
    table = pa.table({"text": ["one", "two", None, "four"], "n": range(4)})
    pa.parquet.write_table(table, folder / "a.parquet")
    write_arrow(folder / "b.arrow", table)
    write_arrow(folder / "c.arrow", table, is_stream=False)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@settings(max_examples=40)
@given(st.sampled_from(["a.parquet", "b.arrow", "c.arrow"]), st.integers(0, 999), st.binary(min_size=1, max_size=8))
def test_altered_tables_raise_only_corpus_errors(
    folder: Path, sound_tables: dict[str, bytes], name: str, at: int, change: bytes
) -> None:
    data = bytearray(sound_tables[name])
    at = at * len(data) // 1000
    data[at : at + len(change)] = change
    (folder / name).write_bytes(data)
    with suppress(CorpusError):
        read(folder / name)


def test_a_row_without_text_is_named(tmp_path: Path) -> None:
    pa = pyarrow()
    pa.parquet.write_table(pa.table({"text": ["one", None]}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"a\.parquet: row 1 has nothing in the column 'text'"):
        read(tmp_path / "a.parquet")


def test_a_small_table_of_endless_text_ends_at_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pa = pyarrow()
    monkeypatch.setattr(limits, "UNPACKED_FREE_BYTES", 100_000)
    repeated = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000, np.int32)), pa.array(["x" * 1000]))
    for file, write in (("a.parquet", pa.parquet.write_table), ("b.parquet", pa.parquet.write_table)):
        write(pa.table({"text": repeated if file == "a.parquet" else repeated.cast(pa.string())}), tmp_path / file)
        with pytest.raises(CorpusError, match=r"bytes become more than 1,000 times as many"):
            read(tmp_path / file)


def test_without_pyarrow_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorpusError, match=r"a\.parquet needs pyarrow, .*: pip install 'foretrain\[parquet\]'"):
        read(tmp_path)
