"""Columns of Arrow arrays as documents: strings, or lists of tokens."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from foretrain import limits
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.bad_inputs import SetupError
from foretrain.data_pipeline.prepare.formats.base import Reading
from foretrain.data_pipeline.prepare.token_members import Document
from foretrain.data_pipeline.prepare.unpack import too_large


def arrow(place: str) -> ModuleType:
    """The module `pyarrow`. Raises SetupError, which names the file that needs it, if it is not installed."""
    try:
        import pyarrow
    except ImportError as error:
        raise SetupError(f"{place} needs pyarrow, which is not installed: pip install 'foretrain[parquet]'") from error
    return pyarrow


Batches = Callable[[ModuleType, io.BufferedIOBase, str, str], Iterator[Any]]
"""From pyarrow, an open file, the name of a column, and that of the file: arrays of the values of the column."""


def read_rows(batches: Batches, stream: io.BufferedIOBase, file: Path, reading: Reading) -> Iterator[Document]:
    """Yield the document of each row of a file.

    Raises CorpusError, which names the file, if it is damaged, and SetupError if it needs more memory than there is.
    """
    place, size_bytes = str(file), file.stat().st_size
    num_rows = num_bytes = 0
    pa = arrow(place)
    try:
        for column in batches(pa, stream, reading.texts.key, place):
            for document in _documents(pa, column, reading, place, num_rows):
                num_bytes += len(document)
                _check_growth(place, num_bytes, size_bytes)
                yield document
            num_rows += len(column)
    except CorpusError:
        raise
    except MemoryError as error:  # pyarrow's own is one too; never left out, since another machine may read the file
        raise SetupError(
            f"{file} needs more memory than there is ({error}): use a machine with more, or leave the file out"
        ) from error
    except (pa.ArrowException, ValueError, TypeError, KeyError, NotImplementedError) as error:
        raise CorpusError(f"{file} is damaged, as pyarrow says ({error}): repair it or leave it out") from error


def column_of(pa: ModuleType, schema: Any, key: str, place: str) -> int:
    """The number of the column with the documents. Raises CorpusError if there is none with strings or tokens."""
    indices = schema.get_all_field_indices(key)
    good = [field.name for field in schema if _is_text(pa, field.type) or _is_tokens(pa, field.type)]
    if len(indices) == 1 and key in good:
        return int(indices[0])
    wrong = f"the column {key!r} " + (
        "is missing" if not indices else "comes twice" if len(indices) > 1 else f"is {schema.field(indices[0]).type}"
    )
    raise CorpusError(
        f"{place}: {wrong[:300]}; columns of strings, or of lists of tokens, are "
        f"{[name[:100] for name in good[:20]]}: choose one with --text-key"
    )


def _is_text(pa: ModuleType, kind: Any) -> bool:
    """Whether a type is that of strings, or of bytes, also in the form of a dictionary."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
    return any(getattr(pa.types, f"is_{name}")(kind) for name in tests if hasattr(pa.types, f"is_{name}"))


def _is_tokens(pa: ModuleType, kind: Any) -> bool:
    """Whether a type is that of lists of integers."""
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests) and pa.types.is_integer(kind.value_type)


def _documents(pa: ModuleType, column: Any, reading: Reading, file: str, first: int) -> Iterator[Document]:
    """Yield the documents of an array, which nobody has checked. `first`: number of its first row in the file."""
    if _is_tokens(pa, column.type):
        yield from _token_lists(column, reading, file, first)
        return
    column = _as_bytes(pa, column)
    column.validate(full=True)
    for number, value in enumerate(column, first):
        data = value.as_buffer() if not pa.types.is_dictionary(column.type) else value.value.as_buffer()
        if data is None:
            reading.texts.bad(_null(file, number, reading.texts.key))
        elif data.size > limits.DOCUMENT_BYTES:
            reading.texts.bad(too_large(f"{file}: row {number}"))
        else:
            yield reading.texts.decode(data.to_pybytes())


def _token_lists(column: Any, reading: Reading, file: str, first: int) -> Iterator[Document]:
    tokens = reading.tokens_of(file)
    column.validate(full=True)
    for number, value in enumerate(column, first):
        if not value.is_valid or value.values.null_count:
            reading.texts.bad(_null(file, number, reading.texts.key))
        else:
            yield from tokens.documents(value.values.to_numpy(), f"{file}: row {number}")


def _as_bytes(pa: ModuleType, column: Any) -> Any:
    """The same array as one of bytes, without a copy: strings would have to be valid UTF-8."""
    if pa.types.is_dictionary(column.type):
        column.indices.validate(full=True)
        return pa.DictionaryArray.from_arrays(column.indices, _as_bytes(pa, column.dictionary), safe=True)
    bytes_of = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}
    if hasattr(pa, "string_view"):
        bytes_of[pa.string_view()] = pa.binary_view()
    kind = bytes_of.get(column.type, column.type)
    return column.view(kind)


def _null(file: str, row: int, key: str) -> CorpusError:
    return CorpusError(f"{file}: row {row} has nothing in the column {key!r}: fill it in, or leave the row out")


def _check_growth(file: str, num_bytes: int, size_bytes: int) -> None:
    """Raise CorpusError if the documents of a file are too many bytes for its size."""
    if num_bytes > max(limits.UNPACKED_FREE_BYTES, limits.UNPACKED_RATIO * size_bytes):
        raise CorpusError(
            f"{file} cannot be read ({size_bytes:,} bytes become more than {limits.UNPACKED_RATIO:,} times as many): "
            "repair it or leave it out"
        )
