"""A file with checksums gives back what was written, or says that it is damaged."""

import io
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain.trainer.checkpoint import checksums
from foretrain.trainer.checkpoint.checksums import (
    BLOCK_BYTES,
    ChecksumReader,
    ChecksumWriter,
    DamagedError,
    check_file,
    read_trailer,
)
from tests.trainer.checkpoint.damages import damages, flipped, overwrite

SMALL = 64
"""Bytes of a block in most of these tests."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that each example overwrites."""
    return tmp_path_factory.mktemp("checksums") / "file"


@pytest.fixture(scope="module")
def small_blocks() -> Iterator[None]:
    """Blocks of SMALL bytes, so that small files have several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checksums, "BLOCK_BYTES", SMALL)
        yield


def write(path: Path, *pieces: bytes) -> None:
    """Write a file piece by piece."""
    with ChecksumWriter(path) as writer:
        for piece in pieces:
            assert writer.write(piece) == len(piece)


def read(path: Path) -> bytes:
    """The complete content of a file."""
    with ChecksumReader(path) as reader:
        return reader.read()


def is_damaged(path: Path, damaged: bytes, check: Callable[[Path], object] = check_file) -> bool:
    """Whether a check finds that a file with the bytes `damaged` is not what was written, and names the file."""
    overwrite(path, damaged)
    try:
        check(path)
    except DamagedError as error:
        return str(path) in str(error)
    return False


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 5])
def test_a_file_of_any_number_of_blocks_is_read_as_it_was_written(size: int, tmp_path: Path) -> None:
    content = random.Random(size).randbytes(size)
    write(tmp_path / "file", content[: size // 3], content[size // 3 :])
    check_file(tmp_path / "file")
    assert read(tmp_path / "file") == content
    assert (tmp_path / "file").read_bytes()[:size] == content  # for readers that know of no checksums


@pytest.mark.usefixtures("small_blocks")
@given(st.lists(st.binary(max_size=3 * SMALL) | st.sampled_from([b"x" * SMALL, b"y" * (SMALL - 1)]), max_size=8))
def test_the_file_does_not_depend_on_how_its_writes_are_split(path: Path, pieces: list[bytes]) -> None:
    content = b"".join(pieces)
    write(path, content)
    at_once = path.read_bytes()
    write(path, *pieces)
    assert path.read_bytes() == at_once
    assert read(path) == content


Move = tuple[int, int, int]
"""Where to seek, from where, and how many bytes to read there; -1 reads up to the end."""
MOVES = st.tuples(st.integers(0, 5 * SMALL), st.just(os.SEEK_SET), st.integers(-1, 3 * SMALL)) | st.tuples(
    st.integers(-5 * SMALL, 5 * SMALL), st.sampled_from([os.SEEK_CUR, os.SEEK_END]), st.integers(-1, 3 * SMALL)
)


@pytest.mark.usefixtures("small_blocks")
@given(st.binary(max_size=4 * SMALL), st.lists(MOVES, min_size=1, max_size=8))
def test_any_part_is_read_as_from_a_plain_file(path: Path, content: bytes, moves: list[Move]) -> None:
    write(path, content)
    plain = io.BytesIO(content)
    with ChecksumReader(path) as reader:
        for offset, whence, size in moves:
            assert reader.seek(offset, whence) == plain.seek(offset, whence)
            assert reader.read(size) == plain.read(size)
            assert reader.tell() == plain.tell()


def blocks(count: int) -> bytes:
    """The random content of a file, with this number of complete blocks and a part of one."""
    return random.Random(count).randbytes(count * checksums.BLOCK_BYTES + checksums.BLOCK_BYTES // 3)


@pytest.mark.usefixtures("small_blocks")
def test_every_one_of_1000_random_damages_of_a_file_is_found(path: Path) -> None:
    write(path, blocks(7))
    missed = [each for each in damages(path.read_bytes(), 1000, seed=1) if not is_damaged(path, each)]
    assert missed == []


@pytest.mark.usefixtures("small_blocks")
def test_every_flip_of_one_bit_and_every_truncation_of_a_file_is_found(path: Path) -> None:
    write(path, blocks(3))
    content = path.read_bytes()
    assert [bit for bit in range(8 * len(content)) if not is_damaged(path, flipped(content, bit))] == []
    assert [size for size in range(len(content)) if not is_damaged(path, content[:size])] == []


def test_damages_of_blocks_of_full_size_are_found(path: Path) -> None:
    write(path, blocks(1))
    assert all(is_damaged(path, each) for each in damages(path.read_bytes(), 70, seed=2))


@pytest.mark.usefixtures("small_blocks")
def test_swapped_blocks_are_found(path: Path) -> None:
    write(path, blocks(3))
    content = path.read_bytes()
    assert is_damaged(path, content[SMALL : 2 * SMALL] + content[:SMALL] + content[2 * SMALL :])


@pytest.mark.usefixtures("small_blocks")
def test_a_check_that_reads_no_content_misses_damages(path: Path) -> None:
    """The damages above are not all in the checksums, so a check has to read the content to find all of them."""
    write(path, blocks(7))
    content = path.read_bytes()
    found = [is_damaged(path, each, read_trailer) for each in damages(content, 1000, seed=1)]
    assert 0 < sum(found) < len(found)


@pytest.mark.usefixtures("small_blocks")
def test_damage_of_one_block_does_not_stop_a_read_of_another(path: Path) -> None:
    content = blocks(4)
    write(path, content)
    path.write_bytes(flipped(path.read_bytes(), 8 * (2 * SMALL + 3)))
    with ChecksumReader(path) as reader:
        assert reader.read(2 * SMALL) == content[: 2 * SMALL]
        with pytest.raises(DamagedError, match="bytes 128 to 192 are not those that were written"):
            reader.read(1)
        reader.seek(3 * SMALL)
        assert reader.read() == content[3 * SMALL :]


@pytest.mark.usefixtures("small_blocks")
def test_a_file_without_its_end_is_not_read_at_all(path: Path) -> None:
    write(path, blocks(2))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedError, match="has lost its end"):
        ChecksumReader(path)


def test_a_file_of_another_writer_has_no_trailer(path: Path) -> None:
    path.write_bytes(b"plain" * 100)
    assert read_trailer(path) is None
