"""The check of a shard's structure finds all damage around the arrays, with the byte, when a corpus is opened."""

import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.data_pipeline.corpus import structure
from foretrain.data_pipeline.corpus.index import Index
from foretrain.data_pipeline.corpus.manifest import Manifest, index_name
from foretrain.data_pipeline.corpus.shard_writer import SplitWriter
from foretrain.data_pipeline.corpus.shards import open_corpus
from foretrain.data_pipeline.corpus.verify import verify
from foretrain.data_pipeline.errors import CorpusError

SHARD = "train-000001.tar"


@pytest.fixture
def copy(corpus: Path, tmp_path: Path) -> Path:
    """A corpus that the test may damage."""
    return Path(shutil.copytree(corpus, tmp_path / "corpus"))


def check(file: Path, corpus: Path) -> None:
    """Check a file as the shard SHARD of a corpus, without a look at its size."""
    index = Index.open(corpus / index_name("train"), Manifest.read(corpus).splits["train"])
    with file.open("rb") as opened:
        structure.check_structure(opened.fileno(), str(file), index, "train", 1, "uint16")


def zero_header(data: bytearray, at: int) -> bytearray:
    data[at : at + 512] = bytes(512)
    return data


def flip(data: bytearray, at: int) -> bytearray:
    data[at] ^= 1
    return data


def second_header(data: bytearray) -> int:
    return data.index(b".doc_lens.npy") // 512 * 512


STRUCTURAL_DAMAGE: dict[str, Callable[[bytearray], bytearray]] = {
    "empty": lambda data: bytearray(),
    "cut inside the first header": lambda data: data[:100],
    "cut inside a later header": lambda data: data[: second_header(data) + 300],
    "cut between two members": lambda data: data[: second_header(data)],
    "cut inside an array": lambda data: data[:1500],
    "cut before the end blocks": lambda data: data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512),
    "cut after one end block": lambda data: data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512 + 512),
    "bit of a name flipped": lambda data: flip(data, 3),
    "bit of a size flipped": lambda data: flip(data, 130),
    "bit of a checksum flipped": lambda data: flip(data, 150),
    "last byte of a checksum flipped": lambda data: flip(data, 155),
    "first header zeroed": lambda data: zero_header(data, 0),
    "later header zeroed": lambda data: zero_header(data, second_header(data)),
    "npy header flipped": lambda data: flip(data, 520),
    "byte after the end": lambda data: data + b"x",
    "bytes between the end blocks": lambda data: data[:-5] + b"hello",
    "padding not zero": lambda data: flip(data, second_header(data) - 1),
}


@pytest.mark.parametrize("damage", STRUCTURAL_DAMAGE)
def test_damage_to_the_structure_is_found_at_open_with_shard_and_byte(copy: Path, damage: str) -> None:
    shard = copy / SHARD
    shard.write_bytes(STRUCTURAL_DAMAGE[damage](bytearray(shard.read_bytes())))
    with pytest.raises(CorpusError, match=rf"{SHARD} is damaged at byte \d+"):
        check(shard, copy)
    with pytest.raises(CorpusError, match=SHARD):
        open_corpus(copy, "train")
    with pytest.raises(CorpusError, match=SHARD):
        verify(copy)


def archive(members: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, payload in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.type = len(payload), kind
            tar.addfile(info, io.BytesIO(payload))
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    payload = io.BytesIO()
    np.save(payload, array)
    return payload.getvalue()


KEY = "train-000000000"
TOKENS, LENS = npy(np.arange(10, dtype="<u2")), npy(np.array([10]))
SAMPLE = {f"{KEY}.tokens.npy": TOKENS, f"{KEY}.doc_lens.npy": LENS}
OTHER_ARCHIVES: dict[str, bytes] = {
    "no lengths": archive({f"{KEY}.tokens.npy": TOKENS}),
    "lengths of another sample": archive({f"{KEY}.tokens.npy": TOKENS, "train-000000001.doc_lens.npy": LENS}),
    "samples of text": archive({f"{KEY}.txt": b"text", f"{KEY}.json": b"{}"}),
    "wider tokens": archive({**SAMPLE, f"{KEY}.tokens.npy": npy(np.arange(10, dtype="<u4"))}),
    "tokens in two rows": archive({**SAMPLE, f"{KEY}.tokens.npy": npy(np.zeros((2, 5), dtype="<u2"))}),
    "fewer tokens than the header says": archive({**SAMPLE, f"{KEY}.tokens.npy": TOKENS[:-2]}),
    "no array": archive({**SAMPLE, f"{KEY}.tokens.npy": b"text"}),
    "another version of npy": archive({**SAMPLE, f"{KEY}.tokens.npy": TOKENS.replace(b"\x01\x00", b"\x02\x00")}),
    "links": archive(dict.fromkeys(SAMPLE, b""), tarfile.SYMTYPE),
}


@pytest.mark.parametrize("name", OTHER_ARCHIVES)
def test_a_valid_archive_of_something_else_is_refused(tmp_path: Path, name: str) -> None:
    writer = SplitWriter(tmp_path, "train", block_bytes=1, shard_tokens=1)
    writer.add(np.arange(10, dtype="<u2"), num_text_bytes=1)
    info = writer.close()
    index, shard = Index.open(tmp_path / index_name("train"), info), tmp_path / "train-000000.tar"

    def check_it() -> None:
        with shard.open("rb") as file:
            structure.check_structure(file.fileno(), str(shard), index, "train", 0, "uint16")

    assert shard.read_bytes() == archive(SAMPLE)  # an archive that another tool wrote with the same members is accepted
    check_it()
    shard.write_bytes(OTHER_ARCHIVES[name])
    with pytest.raises(CorpusError, match=r"train-000000\.tar is damaged at byte \d+"):
        check_it()


@settings(max_examples=40)
@given(data=st.data())
def test_no_flipped_bit_outside_the_arrays_goes_unseen(
    corpus: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    original = (corpus / SHARD).read_bytes()
    at, bit = data.draw(st.integers(0, len(original) - 1)), data.draw(st.integers(0, 7))
    damaged = bytearray(original)
    damaged[at] ^= 1 << bit
    shard = tmp_path_factory.mktemp("flip") / SHARD
    shard.write_bytes(damaged)
    with tarfile.open(corpus / SHARD) as tar:
        is_in_array = any(each.offset_data + 128 <= at < each.offset_data + each.size for each in tar.getmembers())
    if is_in_array:
        check(shard, corpus)
    else:
        with pytest.raises(CorpusError, match="damaged at byte"):
            check(shard, corpus)


@settings(max_examples=40)
@given(counts=st.lists(st.integers(1, 3000), min_size=1, max_size=30), at_once=st.sampled_from([1, 2, 2048]))
def test_the_index_of_what_was_written_is_what_tarfile_and_numpy_find(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], at_once: int
) -> None:
    folder = tmp_path_factory.mktemp("walk")
    writer = SplitWriter(folder, "train", block_bytes=1, shard_tokens=1 << 40)
    for count in counts:
        writer.add(np.full(count, count, dtype="<u2"), num_text_bytes=1)
    info = writer.close()
    index, [shard] = Index.open(folder / index_name("train"), info), info.shards
    with pytest.MonkeyPatch.context() as patch, (folder / shard.name).open("rb") as file:
        patch.setattr(structure, "SAMPLES_AT_ONCE", at_once)
        structure.check_structure(file.fileno(), shard.name, index, "train", 0, "uint16")
    with tarfile.open(folder / shard.name) as tar:
        names = tar.getnames()
    assert names[::2] == [f"train-{number:09d}.tokens.npy" for number in range(len(counts))]
    data = (folder / shard.name).read_bytes()
    assert np.diff(index.start).tolist() == counts
    for at, count in zip(index.tokens_at.tolist(), counts, strict=True):
        assert np.array_equal(np.frombuffer(data, "<u2", count, at), np.full(count, count))
    assert [int(np.frombuffer(data, "<i8", 1, at)[0]) for at in index.lens_at] == counts


@pytest.mark.parametrize("at_once", [1, 2048])
def test_the_first_of_several_faults_is_reported(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(structure, "SAMPLES_AT_ONCE", at_once)
    data = bytearray((corpus / SHARD).read_bytes())
    second, end = second_header(data), len(data) - 1
    for at in (end, second + 3):
        data[at] ^= 1
        (tmp_path / SHARD).write_bytes(data)
        with pytest.raises(CorpusError, match=f"damaged at byte {at // 512 * 512 if at < end else ''}"):
            check(tmp_path / SHARD, corpus)


@pytest.mark.parametrize("at_once", [1, 2048])
def test_any_byte_of_padding_that_is_not_zero_is_found(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(structure, "SAMPLES_AT_ONCE", at_once)
    original = (corpus / SHARD).read_bytes()
    with tarfile.open(corpus / SHARD) as tar:
        ends = [member.offset_data + member.size for member in tar.getmembers()]
    for end in ends:
        for at in {end, end + -end % 512 - 1} if end % 512 else ():
            data = bytearray(original)
            data[at] = 1
            (tmp_path / SHARD).write_bytes(data)
            with pytest.raises(CorpusError, match=r"padding|only zeros must follow"):
                check(tmp_path / SHARD, corpus)


def test_a_size_that_leads_back_or_nowhere_is_refused(corpus: Path, tmp_path: Path) -> None:
    original = (corpus / SHARD).read_bytes()
    for digits in (b"-0000001000", b"+0000000000", b"00000000_00", b"77777777777", b"           "):
        data = bytearray(original)
        data[124:135] = digits
        data[148:156] = b" " * 8
        data[148:156] = b"%06o\0 " % sum(data[:512])  # its checksum is right
        (tmp_path / SHARD).write_bytes(data)
        with pytest.raises(CorpusError, match="damaged at byte 0"):
            check(tmp_path / SHARD, corpus)
