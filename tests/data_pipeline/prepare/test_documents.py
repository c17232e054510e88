"""Documents: which files are read, in which order, and which inputs are refused."""

import gzip
import json
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.documents import DocumentReader
from foretrain.data_pipeline.prepare.input_files import find_files, standard_library
from foretrain.data_pipeline.prepare.token_members import Document

LONG_TEXT = b" ".join(b"%d" % number for number in range(30_000))


def pack(name: str, data: bytes) -> bytes:
    if name.endswith(".gz"):
        return gzip.compress(data)
    return zstandard.compress(data) if name.endswith(".zst") else data


def read(*inputs: Path, text_key: str = "text") -> list[Document]:
    return list(DocumentReader(find_files(inputs), text_key=text_key))


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", [".txt", ".md", ".py"])
def test_a_text_file_is_one_document_compressed_or_not(tmp_path: Path, kind: str, packed: str) -> None:
    file = tmp_path / f"a{kind}{packed}"
    file.write_bytes(pack(file.name, "eins\nzwei é\n".encode()))
    assert read(file) == ["eins\nzwei é\n"]


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
def test_a_line_of_jsonl_is_one_document_and_blank_lines_are_none(tmp_path: Path, packed: str) -> None:
    file = tmp_path / f"a.jsonl{packed}"
    lines = [json.dumps({"id": 1, "body": "first\nline"}), "", json.dumps({"body": "second é"}), "   "]
    file.write_bytes(pack(file.name, "\n".join(lines).encode()))
    assert read(file, text_key="body") == ["first\nline", "second é"]


def test_all_frames_of_a_zstd_file_and_all_members_of_a_gzip_file_are_read(tmp_path: Path) -> None:
    text = "x" * 300_000
    (tmp_path / "a.txt.zst").write_bytes(zstandard.compress(text.encode()) + zstandard.compress(b"end"))
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(text.encode()) + gzip.compress(b"end"))
    assert read(tmp_path) == [text + "end", text + "end"]


def test_inputs_keep_their_order_and_folders_are_sorted_and_no_file_comes_twice(tmp_path: Path) -> None:
    for name in ("b/2.txt", "b/10.txt", "b/sub/0.txt", "a/1.txt", "b/__pycache__/x.py", "b/site-packages/y.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert read(tmp_path / "b", tmp_path / "a", tmp_path / "b" / "2.txt") == [
        "b/10.txt",
        "b/2.txt",
        "b/sub/0.txt",
        "a/1.txt",
    ]


def test_links_to_folders_are_followed_and_a_loop_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "a.txt").write_text("linked")
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "link").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "loop").symlink_to(tmp_path / "near")
    assert [*DocumentReader(find_files([tmp_path / "near"], follow_links=True))] == ["linked"]
    assert read(tmp_path) == ["linked"]  # inside the input


@pytest.mark.parametrize("is_folder", [True, False])
def test_a_link_in_a_folder_of_others_reads_no_file_outside_of_it(is_folder: bool, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "secret.txt").write_text("hush")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "a.txt").write_text("text")
    aim = tmp_path / "home" if is_folder else tmp_path / "home" / "secret.txt"
    (tmp_path / "theirs" / "b.txt").symlink_to(aim)
    with pytest.raises(
        CorpusError, match=r"b\.txt.* leads out of .*theirs, by a link to .*secret\.txt: .*--follow-links"
    ):
        read(tmp_path / "theirs")
    (tmp_path / "mine").symlink_to(tmp_path / "home")
    assert read(tmp_path / "mine") == ["hush"]  # the user has named it


def test_invalid_utf8_is_replaced_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    (tmp_path / "b.txt").write_bytes("café".encode())
    (tmp_path / "c.jsonl").write_bytes(b'{"text": "half \\ud800 pair"}\n{"text": "\\ud83d\\ude00"}\n')
    documents = DocumentReader(find_files([tmp_path]))
    for _ in range(2):  # a second pass counts again
        assert list(documents) == ["caf\ufffd", "café", "half \ufffd pair", "\U0001f600"]
        assert documents.num_replaced == 2


def test_empty_files_are_no_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "b.jsonl").write_text('{"text": ""}\n')
    assert read(tmp_path) == []


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_progress_adds_up_to_the_bytes_on_disk(tmp_path: Path, name: str) -> None:
    lines = b"".join(json.dumps({"text": str(number) * 50}).encode() + b"\n" for number in range(5000))
    (tmp_path / name).write_bytes(pack(name, lines))
    steps: list[int] = []
    documents = DocumentReader(find_files([tmp_path]), on_bytes=steps.append)
    list(documents)
    assert sum(steps) == documents.total_bytes == (tmp_path / name).stat().st_size


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "cut', r"a\.jsonl:2 is not JSON"),
        ('{"txt": "x", "n": 1}', r"a\.jsonl:2: the key 'text' is missing.*\['txt'\].*--text-key"),
        ('{"text": 5}', r"a\.jsonl:2: the key 'text' is not a string.*--text-key"),
        ('["text"]', r"a\.jsonl:2 is not a JSON object"),
    ],
)
def test_a_bad_line_is_named_with_its_remedy(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n' + line + "\n")
    with pytest.raises(CorpusError, match=message):
        read(tmp_path)


def test_missing_unknown_and_useless_inputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="does not exist: give files or folders"):
        find_files([tmp_path / "nowhere"])
    (tmp_path / "mine_document.bin").touch()
    with pytest.raises(CorpusError, match=r"mine_document does not exist: did you mean .*mine_document\.bin\?"):
        find_files([tmp_path / "mine_document"])
    with pytest.raises(CorpusError, match=r"only files that are held out have a name .*: leave code= out"):
        find_files([f"code={tmp_path}"])
    (tmp_path / "mine_document.bin").unlink()
    (tmp_path / "a.pdf").touch()
    with pytest.raises(CorpusError, match="unknown kind"):
        find_files([tmp_path / "a.pdf"])
    with pytest.raises(CorpusError, match="holds no file"):
        find_files([tmp_path])
    with pytest.raises(CorpusError, match="no input"):
        find_files([])
    (tmp_path / "b.txt").symlink_to(tmp_path / "gone")
    with pytest.raises(CorpusError, match="broken link"):
        find_files([tmp_path])


@settings(max_examples=25)
@given(keep=st.floats(0.01, 0.99), packed=st.sampled_from([".gz", ".zst"]))
def test_a_compressed_file_that_is_cut_short_is_an_error(
    tmp_path_factory: pytest.TempPathFactory, keep: float, packed: str
) -> None:
    data = pack(packed, LONG_TEXT)
    file = tmp_path_factory.mktemp("cut") / f"a.txt{packed}"
    file.write_bytes(data[: max(1, int(len(data) * keep))])
    with pytest.raises(CorpusError, match="cannot be read"):
        read(file)


def test_the_standard_library_is_a_corpus_on_every_machine() -> None:
    files = find_files([standard_library()])
    assert any(file.name == "argparse.py" for file in files)
    assert not any(".tar" in file.name for file in files)  # its own tests' archives are broken on purpose
    assert not any({"site-packages", "__pycache__"} & set(file.relative_to(standard_library()).parts) for file in files)
