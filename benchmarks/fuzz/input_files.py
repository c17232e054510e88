"""Files that `foretrain prepare` reads, and the parser that reads them: a sound input of each format."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from foretrain.data_pipeline.prepare.documents import DocumentReader
from foretrain.data_pipeline.prepare.formats.megatron import DATA, HEADER, INDEX, MAGIC, VERSION
from foretrain.data_pipeline.prepare.token_members import TokenFormat

ROWS = ["some text", "", 'naïve 模型, "quoted"\n']
UINT16 = 8
"""Megatron's code of the type."""


def read(path: Path) -> None:
    """Read all documents of a file; of an index of Megatron, those of the tokens beside it."""
    if path.suffix == INDEX:
        path = path.with_suffix(DATA)
        path.write_bytes(np.arange(1, 21, dtype="<u2").tobytes())
    for _ in DocumentReader([path], token_format=TokenFormat(vocab_size=300, eot_id=0)):
        pass


def csv() -> bytes:
    """A table of three rows, one of which has quotes."""
    fields = ['"' + row.replace('"', '""') + '"' for row in ROWS]
    return "".join(f"{number},{field}\n" for number, field in enumerate(["text", *fields])).encode()


def npy() -> bytes:
    """Two rows of tokens."""
    content = io.BytesIO()
    np.save(content, np.arange(20, dtype=np.int32).reshape(2, 10))
    return content.getvalue()


def megatron_index() -> bytes:
    """The index of four sequences of five tokens, in three documents."""
    parts = [np.full(4, 5, "<i4"), np.arange(0, 40, 10, dtype="<i8"), np.array([0, 1, 3, 4], "<i8")]
    return HEADER.pack(MAGIC, VERSION, UINT16, 4, 4) + b"".join(part.tobytes() for part in parts)


def parquet() -> bytes:
    """A table with a column of text and one of numbers."""
    content = io.BytesIO()
    pyarrow.parquet.write_table(_table(), content, compression="none")
    return content.getvalue()


def arrow() -> bytes:
    """The same table as a stream, as Hugging Face's datasets write it."""
    content = io.BytesIO()
    with pa.ipc.new_stream(content, _table().schema) as writer:
        writer.write_table(_table())
    return content.getvalue()


def _table() -> pa.Table:
    return pa.table({"text": ROWS, "number": [1, 2, 3]})
