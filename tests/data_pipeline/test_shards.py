"""The token stream: any stretch of it, and no damage to a shard that goes unseen."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.errors import CorpusError
from data_pipeline.manifest import Manifest
from data_pipeline.shards import TokenStream, open_corpus, verify
from data_pipeline.tar_index import index_shard

SHARD = "train-000001.tar"


@pytest.fixture
def copy(corpus: Path, tmp_path: Path) -> Path:
    """A corpus of its own, to be damaged."""
    return Path(shutil.copytree(corpus, tmp_path / "corpus"))


@pytest.fixture(scope="module")
def all_tokens(corpus: Path) -> np.ndarray:
    """The train split as plain webdataset reads it."""
    urls = [str(corpus / shard.name) for shard in Manifest.read(corpus).splits["train"].shards]
    samples = wds.WebDataset(urls, shardshuffle=False, empty_check=False).decode()
    return np.concatenate([sample["tokens.npy"] for sample in samples])


def test_the_stream_is_what_plain_webdataset_reads(stream: TokenStream, all_tokens: np.ndarray) -> None:
    assert stream.num_tokens == len(all_tokens)
    tokens = stream.read(0, stream.num_tokens)
    assert tokens.dtype == stream.dtype == np.uint16
    assert np.array_equal(tokens, all_tokens)


@given(data=st.data())
def test_any_stretch_can_be_read_across_members_and_shards(
    stream: TokenStream, all_tokens: np.ndarray, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, stream.num_tokens))
    count = data.draw(st.integers(0, stream.num_tokens - start))
    assert np.array_equal(stream.read(start, count), all_tokens[start : start + count])


@given(seq_len=st.integers(1, 3000))
def test_windows_overlap_by_one_token_and_fill_the_stream(
    stream: TokenStream, all_tokens: np.ndarray, seq_len: int
) -> None:
    num_samples = stream.num_samples(seq_len)
    assert num_samples * seq_len + 1 <= stream.num_tokens < (num_samples + 1) * seq_len + 1
    for i in (0, num_samples // 2, num_samples - 1):
        assert np.array_equal(stream.window(i, seq_len), all_tokens[i * seq_len : i * seq_len + seq_len + 1])


def test_a_window_past_the_end_is_never_made_up(stream: TokenStream) -> None:
    with pytest.raises(AssertionError, match="not within"):
        stream.window(stream.num_samples(100), 100)


def test_a_corpus_shorter_than_a_sample_is_refused_with_the_numbers(stream: TokenStream) -> None:
    n = stream.num_tokens
    assert stream.num_samples(n - 1) == 1
    with pytest.raises(CorpusError, match=f"has {n} tokens, and one sample of seq_len = {n} needs {n + 1}"):
        stream.num_samples(n)


def test_the_fingerprint_is_of_the_data(corpus: Path, copy: Path) -> None:
    assert open_corpus(copy, "train").fingerprint == open_corpus(corpus, "train").fingerprint
    assert open_corpus(copy, "val").fingerprint != open_corpus(copy, "train").fingerprint
    fields = json.loads((copy / "manifest.json").read_text())
    fields["tokenizer_sha256"] = "0" * 64
    (copy / "manifest.json").write_text(json.dumps(fields))
    assert open_corpus(copy, "train").fingerprint != open_corpus(corpus, "train").fingerprint


def test_a_folder_without_a_usable_manifest_is_no_corpus(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"there is no corpus at .*foretrain prepare"):
        open_corpus(tmp_path / "nowhere", "train")
    with pytest.raises(CorpusError, match="no split 'test': choose one of train, val"):
        open_corpus(copy, "test")
    manifest = copy / "manifest.json"
    fields = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**fields, "version": 99}))
    with pytest.raises(CorpusError, match="has version 99, not 1"):
        open_corpus(copy, "train")
    for damaged in ("{", "[]", "{}", json.dumps({**fields, "splits": 5}), json.dumps({**fields, "extra": 1})):
        manifest.write_text(damaged)
        with pytest.raises(CorpusError, match="is damaged"):
            open_corpus(copy, "train")
    manifest.unlink()
    with pytest.raises(CorpusError, match="not a finished corpus"):
        open_corpus(copy, "train")


def test_a_sound_corpus_passes_verify(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(corpus, progress=True) == Manifest.read(corpus)
    assert "verifying" in capsys.readouterr().err


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
    assert (index.offset_bytes.tolist(), index.num_tokens.tolist()) == ([512 + 128], [10])


def test_a_shard_that_disagrees_with_the_manifest_is_found_at_open(copy: Path) -> None:
    fields = json.loads((copy / "manifest.json").read_text())
    fields["splits"]["train"]["shards"][1]["num_tokens"] += 1
    (copy / "manifest.json").write_text(json.dumps(fields))
    with pytest.raises(CorpusError, match=rf"{SHARD} holds \d+ tokens in \d+ members, and the manifest says"):
        open_corpus(copy, "train")


@pytest.mark.parametrize("change", [lambda data: data + bytes(512), lambda data: data[:-512]])
def test_a_change_of_size_that_keeps_the_structure_is_found_at_open(
    copy: Path, change: Callable[[bytes], bytes]
) -> None:
    shard = copy / SHARD
    shard.write_bytes(change(shard.read_bytes()))
    with pytest.raises(CorpusError, match=rf"{SHARD} has \d+ bytes, and \d+ were written"):
        open_corpus(copy, "train")


def test_a_missing_shard_is_found_at_open(copy: Path) -> None:
    (copy / SHARD).unlink()
    with pytest.raises(CorpusError, match=f"{SHARD} is missing"):
        open_corpus(copy, "train")


def test_a_payload_bit_is_found_by_verify(copy: Path) -> None:
    shard = copy / SHARD
    shard.write_bytes(_flip(bytearray(shard.read_bytes()), 700))
    open_corpus(copy, "train")  # the structure is whole
    with pytest.raises(CorpusError, match=f"{SHARD} has other bytes"):
        verify(copy)


def test_swapped_shards_are_found_by_verify(copy: Path) -> None:
    first, second = copy / "train-000000.tar", copy / SHARD
    first_bytes, second_bytes = first.read_bytes(), second.read_bytes()
    first.write_bytes(second_bytes)
    second.write_bytes(first_bytes)
    with pytest.raises(CorpusError, match=r"train-000000\.tar(.|\n)*train-000001\.tar"):
        verify(copy)


def test_a_changed_tokenizer_and_a_stranger_are_found_by_verify(copy: Path) -> None:
    (copy / "tokenizer.json").write_text("{}")
    shutil.copy(copy / SHARD, copy / "train-000099.tar")
    with pytest.raises(CorpusError) as error:
        verify(copy)
    assert "tokenizer.json is missing or has changed" in str(error.value)
    assert "train-000099.tar is not in the manifest" in str(error.value)


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
    assert np.array_equal(index.offset_bytes, sound.offset_bytes)
    assert np.array_equal(index.num_tokens, sound.num_tokens)
