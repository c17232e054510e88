"""The header of a safetensors file: what is accepted is what the library reads, and nothing else is accepted."""

import json
from math import prod
from pathlib import Path

import pytest
import safetensors
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from foretrain import limits
from foretrain.trainer.interop.importing.errors import UnfitError
from foretrain.trainer.interop.importing.header import read_header

DTYPES = {"BOOL": torch.bool, "U8": torch.uint8, "I16": torch.int16, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPES |= {"F8_E4M3": torch.float8_e4m3fn, "I32": torch.int32, "F32": torch.float32, "I64": torch.int64}
DTYPES |= {"U64": torch.uint64, "F64": torch.float64, "C64": torch.complex64}
NAMES = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=12)
SHAPES = st.lists(st.integers(0, 4), max_size=3)
TENSORS = st.dictionaries(
    NAMES.filter(lambda name: name != "__metadata__"), st.tuples(st.sampled_from([*DTYPES]), SHAPES), max_size=4
)


def file_of(header: object, num_bytes: int = 0) -> bytes:
    """A file with that header, and as many bytes after it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(num_bytes)


def parsed(path: Path, content: bytes) -> dict[str, tuple[str, list[int], bytes]]:
    """Dtype, shape and bytes of each tensor, as the library returns them."""
    path.write_bytes(content)
    return {
        name: (each.dtype, list(each.shape), content[each.start : each.stop])
        for name, each in read_header(path).items()
    }


def theirs(content: bytes) -> dict[str, tuple[str, list[int], bytes]]:
    return {
        name: (each["dtype"], list(each["shape"]), bytes(each["data"]))
        for name, each in safetensors.deserialize(content)
    }


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TENSORS)
def test_what_the_library_writes_is_read_as_it_was_written(
    tmp_path: Path, tensors: dict[str, tuple[str, list[int]]]
) -> None:
    made = {name: torch.arange(prod(shape)).view(shape).to(DTYPES[dtype]) for name, (dtype, shape) in tensors.items()}
    content = save(made, {"format": "pt"})
    found = parsed(tmp_path / "file", content)
    assert found == theirs(content)
    assert {name: (dtype, shape) for name, (dtype, shape, _) in found.items()} == tensors


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_what_the_library_refuses_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    entries = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
    entries["b"] = {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}
    content = bytearray(file_of({"__metadata__": {"format": "pt"}, **entries}, 32))
    start = data.draw(st.integers(0, len(content)))
    content[start : start + data.draw(st.integers(0, 3))] = data.draw(
        st.binary(max_size=3) | st.sampled_from([b"0", b"-", b"9", b"1e1", b"[", b'"', b" "])
    )
    try:
        found = parsed(tmp_path / "file", bytes(content))
    except UnfitError:
        return
    assert found == theirs(bytes(content))


A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
BAD: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "has 0 bytes and ends inside its header"),
    "half of a length": (b"\1\0", "has 2 bytes and ends inside its header"),
    "half of a header": (file_of({"a": A})[:20], "ends inside its header"),
    "a huge header": ((1 << 40).to_bytes(8, "little"), f"{limits.SAFETENSORS_HEADER_BYTES:,} is the limit"),
    "a list": (file_of([]), "its header is no JSON object"),
    "deep": (file_of(b'{"a":' + b"[" * 200_000), "recursion"),
    "no UTF-8": (file_of(b'{"\xff": 1}'), "can't decode"),
    "a name twice": (file_of(b'{"a": 1, "a": 2}'), "it has a name twice"),
    "a name that controls the terminal": (file_of({"\x1b[31m": A}, 8), r'the name "\u001b[31m"'),
    "metadata": (file_of({"__metadata__": {"a": 1}}), '__metadata__ is {"a": 1}'),
    "no shape": (file_of({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, 8), 'a is {"dtype": "F32"'),
    "another key": (file_of({"a": {**A, "scale": 2}}, 8), '"scale": 2'),
    "an unknown dtype": (file_of({"a": {**A, "dtype": "F128"}}, 8), 'a has the unknown dtype "F128"'),
    "a list for a dtype": (file_of({"a": {**A, "dtype": []}}, 8), "a has the unknown dtype []"),
    "a negative length": (file_of({"a": {**A, "shape": [-2]}}, 8), "a has the shape [-2]"),
    "a length that is true": (file_of({"a": {**A, "shape": [True, 2]}}, 8), "a has the shape [true, 2]"),
    "a length that is no integer": (file_of({"a": {**A, "shape": [2.0]}}, 8), "a has the shape [2.0]"),
    "many lengths": (file_of({"a": {**A, "shape": [1] * 30}}, 8), "a has the shape [1"),
    "a huge length": (file_of({"a": {**A, "shape": [0, 10**30]}}, 8), "a has the shape [0, 1000"),
    "three offsets": (file_of({"a": {**A, "data_offsets": [0, 8, 8]}}, 8), "a has the data_offsets [0, 8, 8]"),
    "a length that does not fit": (file_of({"a": {**A, "shape": [3]}}, 8), "a of the shape [3] in F32 has 8 bytes"),
    "offsets in another order": (file_of({"a": {**A, "data_offsets": [8, 0]}}, 8), "has -8 bytes"),
    "an overlap": (file_of({"a": A, "b": {**A, "data_offsets": [4, 12]}}, 12), "b overlaps the one before"),
    "a gap": (file_of({"a": A, "b": {**A, "data_offsets": [12, 20]}}, 20), "b does not follow the one before"),
    "a gap at the start": (file_of({"b": {**A, "data_offsets": [4, 12]}}, 12), "b does not follow the one before"),
    "a cut": (file_of({"a": A}, 7), "bytes): copy or download it again"),
    "more bytes": (file_of({"a": A}, 9), "its tensors end after"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_not_sound_is_refused_in_one_line_with_its_name(name: str, tmp_path: Path) -> None:
    content, words = BAD[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(UnfitError) as refused:
        read_header(path)
    assert str(path) in str(refused.value) and words in str(refused.value)
    assert "\n" not in str(refused.value)
