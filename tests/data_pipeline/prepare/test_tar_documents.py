"""Plain WebDataset shards of other tools: their documents, and an error for any damage."""

import gzip
import io
import json
import subprocess
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds
import zstandard
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from foretrain.data_pipeline.corpus.manifest import Manifest
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.build import prepare
from foretrain.data_pipeline.prepare.documents import DocumentReader
from foretrain.data_pipeline.prepare.input_files import find_files
from foretrain.data_pipeline.prepare.tar_samples import read_samples
from foretrain.data_pipeline.prepare.token_members import TokenFormat
from foretrain.data_pipeline.prepare.tokenizer import train_tokenizer
from tests.data_pipeline.samples import SMALL

FORMAT = TokenFormat(vocab_size=300, eot_id=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for tests that write their files again in each example."""
    return tmp_path_factory.mktemp("tars")


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def read(*files: Path, **options: Any) -> list[Any]:
    documents = DocumentReader(find_files(files), **options)
    return [each if isinstance(each, str) else each.tolist() for each in documents]


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


texts = st.lists(st.text(min_size=1, max_size=30).filter(lambda text: not text.startswith("\ufeff")), max_size=12)


@settings(max_examples=20)
@given(
    texts,
    st.sampled_from(["txt", "json", "txt.gz", "json.gz"]),
    st.sampled_from([".tar", ".tar.gz"]),
    st.sampled_from([None, 0.0, 1e9 + 0.25]),
)
def test_shards_of_webdataset_hold_the_same_documents_as_lines(
    folder: Path, documents: list[str], extension: str, packed: str, mtime: float | None
) -> None:
    lines = folder / "a.jsonl"
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    shard = folder / f"a{packed}"
    with wds.TarWriter(str(shard), mtime=mtime) as writer:  # writes pax headers for a time with a fraction
        for number, text in enumerate(documents):
            content = {"text": text, "n": 1} if "json" in extension else text
            writer.write({"__key__": f"{number:05}", extension: content, "cls": number})
    assert read(shard) == read(lines) == documents


def test_a_corpus_of_shards_equals_the_corpus_of_the_same_lines(tmp_path: Path) -> None:
    documents = [f"document {number} " * (number % 40) + "é" for number in range(200)]
    for kind in ("lines", "tars", "mixed"):
        (tmp_path / kind).mkdir()
    for kind, end in (("lines", 200), ("mixed", 77)):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in documents[:end])
        (tmp_path / kind / "0.jsonl").write_text(lines)
    for kind, start in (("tars", 0), ("mixed", 77)):
        with wds.ShardWriter(str(tmp_path / kind / "1-%d.tar"), maxcount=50, verbose=0) as writer:
            for number in range(start, 200):
                writer.write({"__key__": f"{number:05}", "txt": documents[number], "png": b"\x89PNG"})
    made = {kind: prepare([tmp_path / kind], tmp_path / f"{kind}.out", **SMALL) for kind in ("lines", "tars", "mixed")}
    assert made["tars"].splits == made["lines"].splits
    assert made["mixed"].splits == made["lines"].splits


@pytest.mark.parametrize("dialect", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_archives_of_tar_are_read_with_long_names_folders_links_and_small_files(tmp_path: Path, dialect: str) -> None:
    long = "d" * (90 if dialect in ("v7", "ustar") else 160)
    for name, text in ((f"{long}/a.txt", "one"), ("b/c.json", '{"text": "two"}'), ("b/c.jpg", "..."), ("é.txt", "3")):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(text)
    (tmp_path / "in" / "z.txt").symlink_to("b/c.json")
    shard = tmp_path / "a.tar"
    names = [".", "--sort=name", "--mtime=2020-01-01T00:00:00.5"]
    subprocess.run(["tar", f"--format={dialect}", "-cf", shard, "-C", tmp_path / "in", *names], check=True)
    assert read(shard) == ["two", "one", "3"]
    (tmp_path / "a.tar.zst").write_bytes(zstandard.compress(shard.read_bytes()))
    assert read(tmp_path / "a.tar.zst") == ["two", "one", "3"]


names = st.lists(st.text(alphabet="ab._/T", min_size=1, max_size=7), max_size=8)


@settings(max_examples=30)
@given(names)
@example(["a.txt", "a.json", "b/a.txt", "__meta__.json", "__meta__/a.txt", "__a.b__", "a.b/c.TXT"])
def test_samples_are_those_that_webdataset_finds(folder: Path, drawn: list[str]) -> None:
    # webdataset takes the file x/.a.b for the member "a.b" of a sample "x/": here a hidden file is no member.
    assume(not any(f"/{name}".rpartition("/")[2].startswith(".") for name in drawn))
    assume(not any(name.endswith("/") or "//" in name or name.startswith("/") for name in drawn))
    shard = folder / "names.tar"
    with tarfile.open(shard, "w") as tar:
        for name in drawn:
            tar.addfile(tarfile.TarInfo(name))
    try:
        theirs = [
            (sample.pop("__key__"), sorted(set(sample) - {"__url__", "__local_path__"}))
            for sample in wds.WebDataset(str(shard), shardshuffle=False, empty_check=False)
        ]
    except ValueError:  # a member comes twice
        with pytest.raises(CorpusError, match="has two members"):
            list(read_samples(io.BytesIO(shard.read_bytes()), "names.tar", lambda extension: True))
        return
    if drawn and not theirs:
        with pytest.raises(CorpusError, match=r"holds no sample: a member's name must be KEY\.EXTENSION"):
            list(read_samples(io.BytesIO(shard.read_bytes()), "names.tar", lambda extension: True))
        return
    ours = read_samples(io.BytesIO(shard.read_bytes()), "names.tar", lambda extension: True)
    assert [(sample.key, sorted(sample.members)) for sample in ours] == theirs


def test_one_member_of_a_sample_is_its_document_and_the_first_kind_wins(tmp_path: Path) -> None:
    members = {
        "0.png": b"\x89",
        "0.json": b'{"text": "json"}',
        "0.txt": b"txt",
        "1.bin": b"\x01\x00",
        "1.jsonl": b'{"text": "first"}\n\n{"text": "second"}\n',
        "2.caption.txt.gz": gzip.compress(b"packed"),
        "3.TXT.zst": zstandard.compress(b"upper case"),
        "4.txt": b"",
        "5.json": b'{"text": ""}',
    }
    assert read(write_tar(tmp_path / "a.tar", members)) == ["txt", "first", "second", "packed", "upper case"]


def test_a_sample_with_two_members_of_one_type_needs_a_choice(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", {"7.en.txt": b"one", "7.fr.txt": b"un"})
    message = r"a\.tar: the sample 7 \(7\.en\.txt, at byte 0\) has en\.txt and fr\.txt: .*--member"
    with pytest.raises(CorpusError, match=message):
        read(shard)
    assert read(shard, member="fr.txt") == ["un"]
    assert read(shard, member=".EN.txt") == ["one"]


def test_a_sample_without_a_document_is_an_error_unless_it_may_be_left_out(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", {"1.txt": b"one", "2.png": b"?", "2.cls": b"5", "3.txt": b"three"})
    message = r"a\.tar: the sample 2 \(2\.png, at byte 1024\) has only png, cls, .*--skip-textless"
    with pytest.raises(CorpusError, match=message):
        read(shard)
    documents = DocumentReader([shard], skip_textless=True)
    for _ in range(2):  # a second pass counts again
        assert list(documents) == ["one", "three"]
        assert documents.num_skipped == 1
    with pytest.raises(CorpusError, match="none of json"):
        read(shard, member="json")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("1.json", b"{", r"1\.json, at byte 1024, is not JSON"),
        ("1.json", b'{"body": "x"}', r"1\.json, at byte 1024,: the key 'text' is missing.*\['body'\].*--text-key"),
        ("1.jsonl", b'{"text": "x"}\n[]', r"1\.jsonl, at byte 1024,:2 is not a JSON object"),
        ("1.txt.gz", gzip.compress(b"text", mtime=0)[:-5], r"1\.txt\.gz, at byte 1024, cannot be decompressed"),
        ("1.npy", npy([300]), r"1\.npy, at byte 1024,: token number 0 is 300, but the vocabulary has 300.*--tokenizer"),
        ("1.npy", npy([5, -1]), r"1\.npy, at byte 1024,: token number 1 is -1"),
        (
            "1.npy",
            npy([[[5]]]),
            r"1\.npy, at byte 1024, is int64 of shape \(1, 1, 1\), and neither a row of integers nor rows",
        ),
        ("1.npy", npy([5.0]), r"1\.npy, at byte 1024, is float64 of shape \(1,\), and neither a row of integers"),
        ("1.npy", npy([5])[:-1], r"1\.npy, at byte 1024, is cut short, before its last token"),
        ("1.npy", b"...", r"1\.npy, at byte 1024, is not a \.npy array"),
        ("1.bin", b"\1\0\1", r"1\.bin, at byte 1024, holds 3 bytes, which is no number of uint16.*--token-dtype"),
        ("1.bin", b"\1\1\1\1", r"1\.bin, at byte 1024,: token number 0 is 257.*--token-dtype"),
    ],
)
def test_a_bad_member_is_named_with_its_shard_and_offset(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    shard = write_tar(tmp_path / "a.tar", {"0.txt": b"good", name: data})
    with pytest.raises(CorpusError, match=rf"a\.tar: {message}"):
        read(shard, token_format=TokenFormat(257 if "257" in message else 300, 0))


def test_tokens_are_kept_as_they_are_and_an_eot_ends_a_document(tmp_path: Path) -> None:
    members = {
        "0.npy": npy(np.array([0, 5, 6, 0, 7], dtype=np.int32)),
        "1.npy.gz": gzip.compress(npy(np.array([8, 0, 0], dtype=">u2"))),
        "2.bin": np.array([9, 299], dtype="<u2").tobytes(),
        "3.npy": npy(np.array([], dtype=np.uint16)),
        "4.npy": npy(np.array([0], dtype=np.uint8)),
    }
    shard = write_tar(tmp_path / "a.tar", members)
    assert read(shard, token_format=FORMAT) == [[5, 6], [7], [8], [9, 299]]
    wide = write_tar(tmp_path / "b.tar", {"0.bin": np.array([9, 70_000], dtype="<u4").tobytes()})
    assert read(wide, token_format=TokenFormat(100_000, 0, "uint32")) == [[9, 70_000]]
    with pytest.raises(CorpusError, match=r"0\.npy, at byte 0, holds tokens: .* --tokenizer"):
        read(shard)


def test_tokens_give_the_same_corpus_as_their_text(tmp_path: Path) -> None:
    documents = [f"naïve {number} 模型\n" * (1 + number % 7) for number in range(60)]
    tokenizer = train_tokenizer(iter(documents), 300)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    ids = [tokenizer.encode(text).ids for text in documents]
    write_tar(tmp_path / "text.tar", {f"{n}.txt": text.encode() for n, text in enumerate(documents)})
    write_tar(tmp_path / "npy.tar", {f"{n}.npy": npy(np.array(each)) for n, each in enumerate(ids)})
    joined = np.array([token for each in ids for token in [*each, 0]], dtype="<u4")
    write_tar(tmp_path / "bin.tar", {"all.bin": joined.tobytes()})

    def made(name: str) -> Manifest:
        tokenizer_path = tmp_path / "tokenizer.json"
        return prepare([tmp_path / f"{name}.tar"], tmp_path / name, tokenizer_path=tokenizer_path, token_dtype="uint32")

    of_text, of_npy, of_bin = made("text"), made("npy"), made("bin")
    assert of_npy.splits == of_bin.splits
    for field in ("num_tokens", "num_documents", "num_bytes"):  # which documents are held out goes by other bytes
        totals = [sum(getattr(split, field) for split in each.splits.values()) for each in (of_text, of_npy)]
        assert totals[0] == totals[1], field
    with pytest.raises(CorpusError, match="--tokenizer"):
        prepare([tmp_path / "npy.tar"], tmp_path / "untold", **SMALL)


def archive(format: int) -> tuple[bytes, list[int]]:
    """A tar of six members; the offsets of their headers, and of the first block of zeros."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        for number in range(6):
            info = tarfile.TarInfo(f"{number:03}{'n' * 90 if number % 2 else ''}.{'txt' if number < 5 else 'jpg'}")
            info.size, info.mtime = 300 * number, 1e9 + 0.5
            tar.addfile(info, io.BytesIO(b"x" * info.size))
    file.seek(0)
    with tarfile.open(fileobj=file) as tar:
        places = [member.offset for member in tar] + [tar.offset]
    return file.getvalue(), places


ARCHIVES = {format: archive(format) for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)}


def test_the_archives_for_the_damage_tests_are_sound(folder: Path) -> None:
    for data, _ in ARCHIVES.values():
        (folder / "sound.tar").write_bytes(data)
        assert read(folder / "sound.tar", skip_textless=True) == ["x" * 300, "x" * 600, "x" * 900, "x" * 1200]


def refused(data: bytes, shard: Path) -> str:
    shard.write_bytes(data)
    with pytest.raises(CorpusError, match=r"damaged.tar is damaged at byte \d+: ") as error:
        read(shard, skip_textless=True)
    return str(error.value)


@given(st.sampled_from(list(ARCHIVES)), st.floats(0, 1, exclude_max=True))
def test_a_shard_that_is_cut_anywhere_is_refused(folder: Path, format: int, share: float) -> None:
    data, places = ARCHIVES[format]
    refused(data[: int(share * (places[-1] + 1024))], folder / "damaged.tar")


outside_the_checksum = st.integers(0, 147) | st.integers(156, 511)


@given(st.sampled_from(list(ARCHIVES)), st.integers(0, 5), outside_the_checksum, st.integers(1, 255))
def test_a_header_with_a_changed_byte_is_refused_with_its_offset(
    folder: Path, format: int, number: int, at: int, flip: int
) -> None:
    data, places = ARCHIVES[format]
    altered = bytearray(data)
    altered[places[number] + at] ^= flip
    assert f"at byte {places[number]}:" in refused(bytes(altered), folder / "damaged.tar")


def test_members_after_a_zeroed_header_and_a_second_archive_are_errors(folder: Path) -> None:
    for data, places in ARCHIVES.values():
        zeroed = data[: places[3]] + bytes(512) + data[places[3] + 512 :]
        assert f"at byte {places[3] + 512}: " in refused(zeroed, folder / "damaged.tar")
        assert "bytes other than zero follow" in refused(data + data, folder / "damaged.tar")
        at = places[2] - 1  # in the padding of a payload of 300 bytes
        assert "the padding of" in refused(data[:at] + b"!" + data[at + 1 :], folder / "damaged.tar")


@given(st.sampled_from(list(ARCHIVES)), st.lists(st.tuples(st.floats(0, 0.99), st.binary(max_size=9)), max_size=4))
def test_an_altered_archive_raises_only_corpus_errors(
    folder: Path, format: int, changes: list[tuple[float, bytes]]
) -> None:
    data = bytearray(ARCHIVES[format][0])
    for share, change in changes:
        at = int(share * len(data))
        data[at : at + len(change)] = change
    (folder / "any.tar").write_bytes(data)
    with suppress(CorpusError):
        read(folder / "any.tar", skip_textless=True)


def test_sparse_files_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.txt").open("wb") as file:
        file.truncate(1 << 20)
    for dialect in ("gnu", "posix"):
        command = f"tar --sparse --format={dialect} -cf a.tar a.txt"
        subprocess.run(command, shell=True, cwd=tmp_path, check=True)
        with pytest.raises(CorpusError, match=r"a\.tar: .*a\.txt, at byte 0, is sparse"):
            read(tmp_path / "a.tar")


def test_shards_are_found_with_the_other_files_of_a_folder(tmp_path: Path) -> None:
    write_tar(tmp_path / "b.tar", {"0.txt": b"shard"})
    (tmp_path / "a.txt").write_text("file")
    (tmp_path / "c.tar.gz").write_bytes(gzip.compress((tmp_path / "b.tar").read_bytes()))
    assert read(tmp_path) == ["file", "shard", "shard"]
