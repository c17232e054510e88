"""The walk through a shard's headers: what was written is found, and no damage to the structure goes unseen."""

import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain.data_pipeline.corpus import tar_index
from foretrain.data_pipeline.corpus.shard_writer import SplitWriter
from foretrain.data_pipeline.corpus.shards import open_corpus, verify
from foretrain.data_pipeline.corpus.tar_index import index_shard
from foretrain.data_pipeline.errors import CorpusError

SHARD = "train-000001.tar"


@pytest.fixture
def copy(corpus: Path, tmp_path: Path) -> Path:
    """A corpus of its own, to be damaged."""
    return Path(shutil.copytree(corpus, tmp_path / "corpus"))


def _zero_header(data: bytearray, at: int) -> bytearray:
    data[at : at + 512] = bytes(512)
    return data


def _flip(data: bytearray, at: int) -> bytearray:
    data[at] ^= 1
    return data


def _second_header(data: bytearray) -> int:
    return data.index(b".doc_lens.npy") // 512 * 512


STRUCTURAL_DAMAGE: dict[str, Callable[[bytearray], bytearray]] = {
    "empty": lambda data: bytearray(),
    "cut inside the first header": lambda data: data[:100],
    "cut inside a later header": lambda data: data[: _second_header(data) + 300],
    "cut at a member's boundary": lambda data: data[: _second_header(data)],
    "cut inside a payload": lambda data: data[:1500],
    "cut before the end blocks": lambda data: data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512),
    "cut after one end block": lambda data: data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512 + 512),
    "bit of a name flipped": lambda data: _flip(data, 3),
    "bit of a size flipped": lambda data: _flip(data, 130),
    "bit of a checksum flipped": lambda data: _flip(data, 150),
    "last byte of a checksum flipped": lambda data: _flip(data, 155),
    "first header zeroed": lambda data: _zero_header(data, 0),
    "later header zeroed": lambda data: _zero_header(data, _second_header(data)),
    "npy header flipped": lambda data: _flip(data, 520),
    "byte after the end": lambda data: data + b"x",
    "bytes between the end blocks": lambda data: data[:-5] + b"hello",
    "padding not zero": lambda data: _flip(data, _second_header(data) - 1),
}


@pytest.mark.parametrize("damage", STRUCTURAL_DAMAGE)
def test_damage_to_the_structure_is_found_at_open_with_shard_and_byte(copy: Path, damage: str) -> None:
    shard = copy / SHARD
    shard.write_bytes(STRUCTURAL_DAMAGE[damage](bytearray(shard.read_bytes())))
    with pytest.raises(CorpusError, match=rf"{SHARD} is damaged at byte \d+"):
        index_shard(shard, "uint16")  # by the shard's own structure, without the manifest
    with pytest.raises(CorpusError, match=SHARD):
        open_corpus(copy, "train")
    with pytest.raises(CorpusError, match=SHARD):
        verify(copy)


def _npy(array: np.ndarray) -> bytes:
    payload = io.BytesIO()
    np.save(payload, array)
    return payload.getvalue()


TOKENS, LENS = _npy(np.arange(10, dtype="<u2")), _npy(np.array([10]))
SOUND_SAMPLE = {"a.tokens.npy": TOKENS, "a.doc_lens.npy": LENS}

V1_PADDED_TO_16 = b"\x93NUMPY\x01\x00\x46\x00" + TOKENS[10:79] + b"\n" + TOKENS[128:]
"""As numpy wrote headers before 1.14: shorter, and as valid."""

FOREIGN_ARCHIVES: dict[str, tuple[dict[str, bytes], str]] = {
    "no lengths": ({"a.tokens.npy": TOKENS}, "has no partner"),
    "lengths of another sample": ({"a.tokens.npy": TOKENS, "b.doc_lens.npy": LENS}, "not a sample of tokens"),
    "samples of text": ({"a.txt": b"text", "a.json": b"{}"}, "not a sample of tokens"),
    "wider tokens": ({**SOUND_SAMPLE, "a.tokens.npy": _npy(np.arange(10, dtype="<u4"))}, "not a row of uint16"),
    "tokens in two rows": (
        {**SOUND_SAMPLE, "a.tokens.npy": _npy(np.zeros((2, 5), dtype="<u2"))},
        "not a row of uint16",
    ),
    "fewer tokens than told": ({**SOUND_SAMPLE, "a.tokens.npy": TOKENS[:-2]}, "not those of 10 tokens"),
    "no array": ({**SOUND_SAMPLE, "a.tokens.npy": b"text"}, r"not a \.npy array"),
    "another version of npy": ({**SOUND_SAMPLE, "a.tokens.npy": TOKENS.replace(b"\x01\x00", b"\x02\x00")}, "version"),
}


def _tar(folder: Path, members: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(folder / "shard.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, payload in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.type = len(payload), kind
            tar.addfile(info, io.BytesIO(payload))
    return folder / "shard.tar"


@pytest.mark.parametrize("content", FOREIGN_ARCHIVES)
def test_a_sound_archive_of_something_else_is_refused_at_open(tmp_path: Path, content: str) -> None:
    members, message = FOREIGN_ARCHIVES[content]
    with pytest.raises(CorpusError, match=message):
        index_shard(_tar(tmp_path, members), "uint16")


def test_an_archive_of_links_is_refused_and_one_that_another_tool_packed_is_not(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="not a regular file"):
        index_shard(_tar(tmp_path, dict.fromkeys(SOUND_SAMPLE, b""), tarfile.SYMTYPE), "uint16")
    index = index_shard(_tar(tmp_path, SOUND_SAMPLE), "uint16")
    assert (index.keys.tolist(), index.tokens_at.tolist(), index.num_tokens.tolist()) == ([b"a"], [512 + 128], [10])
    assert (index.lens_at.tolist(), index.num_lens.tolist()) == ([512 + 512 + 512 + 128], [1])


@given(data=st.data())
def test_no_flipped_bit_moves_the_tokens_unseen(
    corpus: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    shard = tmp_path_factory.mktemp("flip") / SHARD
    original = (corpus / SHARD).read_bytes()
    at, bit = data.draw(st.integers(0, len(original) - 1)), data.draw(st.integers(0, 7))
    damaged = bytearray(original)
    damaged[at] ^= 1 << bit
    shard.write_bytes(damaged)
    sound = index_shard(corpus / SHARD, "uint16")
    try:
        index = index_shard(shard, "uint16")
    except CorpusError:
        return
    for name, found in vars(index).items():
        assert np.array_equal(found, getattr(sound, name)), name


@given(counts=st.lists(st.integers(1, 3000), max_size=30), at_once=st.sampled_from([2, 4, 4096]))
def test_the_walk_finds_what_tarfile_and_numpy_find(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], at_once: int
) -> None:
    folder = tmp_path_factory.mktemp("walk")
    writer = SplitWriter(folder, "train", block_bytes=1, shard_tokens=1 << 40)
    for count in counts or [1]:
        writer.add(np.full(count, count, dtype="<u2"), num_text_bytes=1)
    [shard] = writer.close().shards
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tar_index, "CHECKED_AT_ONCE", at_once)
        index = index_shard(folder / shard.name, "uint16")
    with tarfile.open(folder / shard.name) as tar:
        names = tar.getnames()
    data = (folder / shard.name).read_bytes()
    assert [f"{key.decode()}.tokens.npy" for key in index.keys] == names[::2]
    assert index.num_tokens.tolist() == (counts or [1])
    for at, count in zip(index.tokens_at.tolist(), counts, strict=False):
        assert np.array_equal(np.frombuffer(data, "<u2", count, at), np.full(count, count))
    assert [int(np.frombuffer(data, "<i8", 1, at)[0]) for at in index.lens_at] == (counts or [1])


def test_an_array_whose_header_numpy_wrote_otherwise_is_found_too(tmp_path: Path) -> None:
    index = index_shard(_tar(tmp_path, {**SOUND_SAMPLE, "a.tokens.npy": V1_PADDED_TO_16}), "uint16")
    assert (index.tokens_at.tolist(), index.num_tokens.tolist()) == ([512 + 80], [10])


@pytest.mark.parametrize("at_once", [2, 4096])
def test_of_several_faults_the_first_one_is_told(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(tar_index, "CHECKED_AT_ONCE", at_once)
    data = bytearray((corpus / SHARD).read_bytes())
    second, end = _second_header(data), len(data) - 1
    for at in (end, second + 3):
        data[at] ^= 1
        (tmp_path / SHARD).write_bytes(data)
        with pytest.raises(CorpusError, match=f"damaged at byte {at // 512 * 512 if at < end else ''}"):
            index_shard(tmp_path / SHARD, "uint16")


@pytest.mark.parametrize("at_once", [2, 4096])
def test_any_byte_of_padding_that_is_not_zero_is_found(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(tar_index, "CHECKED_AT_ONCE", at_once)
    original = (corpus / SHARD).read_bytes()
    with tarfile.open(corpus / SHARD) as tar:
        ends = [member.offset_data + member.size for member in tar.getmembers()]
    for end in ends:
        for at in {end, end + -end % 512 - 1} if end % 512 else ():
            data = bytearray(original)
            data[at] = 1
            (tmp_path / SHARD).write_bytes(data)
            with pytest.raises(CorpusError, match="padding"):
                index_shard(tmp_path / SHARD, "uint16")


def test_a_header_that_leads_back_or_nowhere_ends_the_walk(corpus: Path, tmp_path: Path) -> None:
    original = (corpus / SHARD).read_bytes()
    for digits in (b"-0000001000", b"+0000000000", b"00000000_00", b"77777777777", b"           "):
        data = bytearray(original)
        data[124:135] = digits
        data[148:156] = b" " * 8
        data[148:156] = b"%06o\0 " % sum(data[:512])  # its checksum is right
        (tmp_path / SHARD).write_bytes(data)
        with pytest.raises(CorpusError, match="damaged at byte"):
            index_shard(tmp_path / SHARD, "uint16")
