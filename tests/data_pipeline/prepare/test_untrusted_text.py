"""Text and tokenizers of others: what they may cost, and an error with a place for what is too much."""

import gzip
import io
import json
import resource
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from foretrain import limits
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.documents import DocumentReader
from foretrain.data_pipeline.prepare.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
from foretrain.data_pipeline.prepare.unpack import unpack

MB = 10**6


def packed_zeros(num_bytes: int) -> bytes:
    """A zstd frame of zeros, 30,000 times smaller."""
    return zstandard.ZstdCompressor(level=19).compress(bytes(num_bytes))


def read(*files: Path) -> list[Any]:
    return [*DocumentReader(files)]


@pytest.fixture
def small_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DOCUMENT_BYTES", 10_000)


@pytest.fixture
def little_memory() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 400 * MB, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("name", ["bomb.txt.zst", "bomb.jsonl.zst", "bomb.tar.zst"])
def test_a_small_file_that_becomes_a_gigabyte_is_refused_with_little_memory(name: str, tmp_path: Path) -> None:
    frame = packed_zeros(32 * MB)
    (tmp_path / name).write_bytes(frame * 40)
    with pytest.raises(CorpusError, match=rf"{name}.*bytes become more than 1,000 times as many"):
        read(tmp_path / name)


def test_compressed_text_is_read_as_before() -> None:
    text = b"".join(b"line %d of a text\n" % number for number in range(100_000))
    for name, packed in (("a.gz", gzip.compress(text)), ("a.zst", zstandard.compress(text) + zstandard.compress(text))):
        assert unpack(name, io.BytesIO(packed)).read() in (text, text * 2)


@pytest.mark.usefixtures("small_documents")
def test_a_document_larger_than_one_may_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"x" * 10_001)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"x" * 10_001))
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "short"}\n{"text": "' + b"x" * 10_001)
    for name, place in (("a.txt", "a.txt"), ("a.txt.gz", "a.txt.gz"), ("a.jsonl", "a.jsonl:2")):
        with pytest.raises(CorpusError, match=rf"{place} has more than 10,000 bytes of text or tokens: split it"):
            read(tmp_path / name)


def tar_of(path: Path, members: dict[str, bytes], headers: dict[str, str] | None = None) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers=headers or {}) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.usefixtures("small_documents")
def test_a_sample_larger_than_one_may_be_is_named(tmp_path: Path) -> None:
    for members in (
        {"a.txt": b"x" * 10_001},
        {"a.0.txt": b"x" * 6_000, "a.1.txt": b"x" * 6_000},
        {"a.txt.gz": gzip.compress(b"x" * 10_001)},
    ):
        with pytest.raises(CorpusError, match=r"a\.tar: .*a.*at byte \d+, has more than 10,000 bytes"):
            read(tar_of(tmp_path / "a.tar", members))


def test_a_sample_of_endless_members_and_an_endless_header_end_at_their_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SAMPLE_MEMBERS", 50)
    with pytest.raises(CorpusError, match="the sample a has more than 50 members"):
        read(tar_of(tmp_path / "a.tar", {f"a.{number}": b"" for number in range(60)}))
    monkeypatch.setattr(limits, "TAR_RECORDS", 50)
    with pytest.raises(CorpusError, match="extended headers have more than 50 records"):
        read(tar_of(tmp_path / "b.tar", {"a.txt": b"x"}, {f"key{number}": "x" for number in range(60)}))
    monkeypatch.setattr(limits, "TAR_HEADER_BYTES", 1000)
    with pytest.raises(CorpusError, match="an extended header has more than 1,000 bytes"):
        read(tar_of(tmp_path / "c.tar", {"a.txt": b"x"}, {"key": "x" * 2000}))
    with tarfile.open(tmp_path / "d.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("x" * 2000 + ".txt"))
    with pytest.raises(CorpusError, match=r"a long name has more than 1,000 bytes"):
        read(tmp_path / "d.tar")


def test_an_integer_of_thousands_of_digits_is_an_error_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"text": "y", "n": ' + "9" * 5000 + "}\n")
    with pytest.raises(CorpusError, match=r"a\.jsonl:2 is not JSON"):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize("number", [2**24, 4_294_967_294, 10**30, -1])
@pytest.mark.parametrize("where", ["vocab", "added"])
def test_a_tokenizer_with_an_id_beyond_all_vocabularies_is_refused(where: str, number: int, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    save_tokenizer(train_tokenizer(["some words"] * 3, 260), path)
    assert load_tokenizer(path).get_vocab_size() > 256
    fields = json.loads(path.read_text())
    if where == "vocab":
        fields["model"]["vocab"]["hostile"] = number
    else:
        fields["added_tokens"][0]["id"] = number
    path.write_text(json.dumps(fields))
    with pytest.raises(
        CorpusError, match=rf"tokenizer\.json is not a tokenizer\.json \(the token id {str(number)[:20]}"
    ):
        load_tokenizer(path)


def test_a_tokenizer_beyond_its_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TOKENIZER_BYTES", 1000)
    (tmp_path / "tokenizer.json").write_text(" " * 1001)
    with pytest.raises(CorpusError, match=r"tokenizer\.json has more than 1,000 bytes"):
        load_tokenizer(tmp_path / "tokenizer.json")
