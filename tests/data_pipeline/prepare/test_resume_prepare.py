"""`prepare` that is stopped anywhere, in any way, resumes and ends in the corpus of a run without a stop."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare import build as prepare_module
from foretrain.data_pipeline.prepare import corpus_writer, documents, encode
from foretrain.data_pipeline.prepare.build import prepare
from foretrain.data_pipeline.prepare.corpus_writer import CorpusWriter
from foretrain.data_pipeline.prepare.documents import DocumentReader
from foretrain.data_pipeline.prepare.encode import EncodedDocument, split_documents
from foretrain.data_pipeline.prepare.journal import JOURNAL, ResumePoint, read_journal
from tests.data_pipeline.samples import write_texts

SMALL: dict[str, Any] = {"vocab_size": 300, "block_bytes": 500, "shard_tokens": 700, "val_fraction": 0.1}
"""Settings under which a few kilobytes of text fill several shards of several members."""
TRACED = {"background", "build", "corpus_writer", "encode", "files", "journal", "output_folder", "shard_writer"}
"""Stems of the files whose lines are counted."""


LONG_DAMAGE = [pytest.param(damage, marks=pytest.mark.long) for damage in ("journal", "no shard")]


class Cut(BaseException):
    """An exception that can be raised anywhere, like Ctrl-C."""


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def partials(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if ".partial-" in path.name]


@pytest.fixture(scope="module")
def uninterrupted(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run that was not stopped."""
    out = tmp_path_factory.mktemp("uninterrupted") / "out"
    manifest = prepare([inputs], out, **SMALL)
    assert manifest.num_replaced_documents > 1
    assert len(manifest.splits["train"].shards) > 2
    return bytes_of(out)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the journal after each document, and encode a few documents at a time."""
    monkeypatch.setattr(corpus_writer, "JOURNAL_EVERY_S", 0.0)
    monkeypatch.setattr(encode, "BATCH_CHARS", 5000)


@contextmanager
def stopped_at_line(number: int) -> Iterator[list[int]]:
    """Raise Cut after `number` lines of the code that writes; yield a list with the count of lines."""
    count = [0]

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        if event == "call":
            return trace if Path(frame.f_code.co_filename).stem in TRACED and "foretrain" in str(frame) else None
        if event == "line":
            count[0] += 1
            if count[0] == number:
                raise Cut
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield count
    finally:
        sys.settrace(before)


@pytest.fixture(scope="module")
def num_lines(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> int:
    """Number of lines of code that a run executes."""
    with pytest.MonkeyPatch.context() as patch, stopped_at_line(0) as count:
        patch.setattr(corpus_writer, "JOURNAL_EVERY_S", 0.0)
        patch.setattr(encode, "BATCH_CHARS", 5000)
        prepare([inputs], tmp_path_factory.mktemp("counted") / "out", **SMALL)
    return count[0]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 12))])
def test_prepare_stopped_at_any_line_of_code_resumes_to_the_same_bytes(
    inputs: Path,
    uninterrupted: dict[str, bytes],
    num_lines: int,
    tmp_path: Path,
    seed: int,
) -> None:
    draw, out = random.Random(seed), tmp_path / "out"
    for _ in range(draw.randint(1, 3)):
        with suppress(Cut), stopped_at_line(draw.randint(1, num_lines)):
            prepare([inputs], out, **SMALL, overwrite=True)
    prepare([inputs], out, **SMALL, overwrite=True)
    assert bytes_of(out) == uninterrupted
    assert list(out.parent.iterdir()) == [out]


def test_prepare_killed_several_times_resumes_to_the_same_bytes(
    inputs: Path, uninterrupted: dict[str, bytes], tmp_path: Path
) -> None:
    code = (
        "import time; from foretrain.data_pipeline.prepare import corpus_writer, encode\n"
        "from foretrain.data_pipeline.prepare import build as prepare\n"
        "corpus_writer.JOURNAL_EVERY_S, encode.BATCH_CHARS = 0.0, 2000\n"
        "add = corpus_writer.CorpusWriter.add\n"
        "corpus_writer.CorpusWriter.add = lambda *given: (time.sleep(0.02), add(*given))\n"
        "print('ready', flush=True)\n"
        f"prepare.prepare([{str(inputs)!r}], {str(tmp_path / 'out')!r}, **{SMALL!r})"
    )
    draw = random.Random(0)
    points: list[int] = []
    for kind in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        wait_for_journal(tmp_path, points[-1] if points else 0)
        time.sleep(draw.uniform(0, 0.05))
        process.send_signal(kind)
        process.wait()
        process.stdout.close()
        (partial,) = partials(tmp_path)
        point = read_journal(partial)
        points.append(0 if point is None else point.num_documents)
    assert 0 < points[0] < points[1] < points[2] < 38
    prepare([inputs], tmp_path / "out", **SMALL)
    assert bytes_of(tmp_path / "out") == uninterrupted


def wait_for_journal(folder: Path, beyond: int = 0) -> None:
    """Wait until a journal has more than `beyond` documents."""
    for _ in range(3000):
        for partial in partials(folder):
            point = read_journal(partial) if (partial / JOURNAL).exists() else None
            if point is not None and point.num_documents > beyond:
                return
        time.sleep(0.01)
    raise AssertionError("no journal was written")


def cut_after(num_documents: int) -> Callable[..., None]:
    """Return a CorpusWriter.add that raises Cut after that many documents."""
    add = corpus_writer.CorpusWriter.add
    left = [num_documents]

    def add_or_cut(*given: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Cut
        add(*given)

    return add_or_cut


def stop_after(num_documents: int, inputs: list[Path], out: Path, **given: Any) -> Path:
    """Run until `num_documents` are written, and return the partial folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_writer.CorpusWriter, "add", cut_after(num_documents))
        with pytest.raises(Cut):
            prepare(inputs, out, **{**SMALL, **given})
    (partial,) = partials(out.parent)
    return partial


@pytest.mark.usefixtures("eager")
def test_finished_work_is_neither_trained_nor_tokenized_nor_read_again(
    inputs: Path, uninterrupted: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(25, [inputs], tmp_path / "out")
    opened: list[str] = []
    encoded: list[object] = []
    unpack, tokens_of = documents.unpack, prepare_module.encode_documents

    def counted(pairs: Iterable[object]) -> Iterator[object]:
        for pair in pairs:
            encoded.append(pair)
            yield pair

    def counted_tokens(pairs: Any, *given: Any, **named: Any) -> Any:
        return tokens_of(counted(pairs), *given, **named)  # type: ignore[arg-type]

    def counted_unpack(name: str, raw: Any) -> Any:
        opened.append(name)
        return unpack(name, raw)

    monkeypatch.setattr(documents, "unpack", counted_unpack)
    monkeypatch.setattr(prepare_module, "encode_documents", counted_tokens)
    monkeypatch.setattr(prepare_module, "train_tokenizer", None)
    manifest = prepare([inputs], tmp_path / "out", **SMALL)
    assert len(encoded) == sum(split.num_documents for split in manifest.splits.values()) - 25
    assert opened == ["lines.jsonl", "zz.txt"]
    assert bytes_of(tmp_path / "out") == uninterrupted


@settings(max_examples=30)
@given(sizes=st.lists(st.integers(0, 4), min_size=1, max_size=12), val_fraction=st.sampled_from([0.001, 0.1, 0.3]))
def test_from_any_position_the_documents_and_their_splits_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], val_fraction: float
) -> None:
    folder = tmp_path_factory.mktemp("positions")
    files = [folder / f"{number}.jsonl" for number in range(len(sizes))]
    for number, (file, size) in enumerate(zip(files, sizes, strict=True)):
        texts = [f"{number} {line}" + "\ud800" * (line % 2) for line in range(size)]
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    reader = DocumentReader(files)
    uninterrupted, positions = [], []
    with CorpusWriter(folder_of(folder), ResumePoint.start(1), block_bytes=8, shard_tokens=9) as writer:
        for split, document in split_documents(reader, val_fraction):
            writer.add(EncodedDocument(split, np.zeros(1, dtype=np.uint16), 1))
            uninterrupted.append((split, document))
            positions.append(writer.read_position(reader))
    for num_done, position in enumerate(positions, 1):
        again = DocumentReader(files)
        pairs = list(split_documents(again.read_from(position), val_fraction, position.num_documents))
        assert pairs[num_done - position.num_documents :] == uninterrupted[num_done:]
        assert again.num_replaced == reader.num_replaced
    not_empty = [size for size in sizes if size]
    # Reading resumes at the last file if the val split starts two documents before it.
    if "val" in [split for split, _ in uninterrupted[: max(0, sum(not_empty[:-1]) - 1)]]:
        assert positions[-1].num_files >= len(not_empty) - 2


def folder_of(parent: Path) -> Path:
    (parent / "shards").mkdir()
    return parent / "shards"


def test_a_stopped_run_holds_no_file_open(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_writer.CorpusWriter, "add", cut_after(9))
    with pytest.raises(Cut) as kept:  # the exception keeps the frames of the call and their variables
        prepare([inputs], tmp_path / "out", **SMALL)
    files = [fd.readlink() for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    assert not [file for file in files if file.is_relative_to(tmp_path)]
    assert kept.traceback


def test_a_stopped_overwrite_keeps_the_previous_corpus(
    inputs: Path, uninterrupted: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    prepare([inputs], out, **{**SMALL, "vocab_size": 280})
    before = bytes_of(out)
    stop_after(9, [inputs], out, overwrite=True)
    assert bytes_of(out) == before
    with pytest.raises(CorpusError, match="--overwrite"):
        prepare([inputs], out, **SMALL)
    prepare([inputs], out, **SMALL, overwrite=True)
    assert bytes_of(out) == uninterrupted
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.usefixtures("eager")
def test_other_settings_or_inputs_start_from_the_beginning_with_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, out = write_texts(tmp_path / "in", 30), tmp_path / "out"
    other = {"vocab_size": 280}
    stop_after(9, [texts], out, progress=True)
    assert capsys.readouterr().err.endswith("stopped: run the same command again to resume\n")
    first = stop_after(20, [texts], out, progress=True)
    assert "resuming after 9 documents" in capsys.readouterr().err
    second = stop_after(9, [texts], out, **other, progress=True)
    assert first != second and not first.exists()
    assert "the inputs or settings have changed" in capsys.readouterr().err
    os.utime(texts / "000.txt", ns=(1, 1))
    prepare([texts], out, **{**SMALL, **other}, progress=True)
    assert "the inputs or settings have changed" in capsys.readouterr().err
    prepare([texts], tmp_path / "again", **{**SMALL, **other})
    assert bytes_of(out) == bytes_of(tmp_path / "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "in", "out"]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    "damage",
    ["half a journal", "shard", *LONG_DAMAGE],
)
def test_a_damaged_partial_folder_is_not_used(
    inputs: Path, uninterrupted: dict[str, bytes], tmp_path: Path, damage: str
) -> None:
    partial = stop_after(25, [inputs], tmp_path / "out")
    journal, shard = partial / JOURNAL, partial / "train-000001.tar"
    if damage == "journal":
        data = bytearray(journal.read_bytes())
        data[len(data) // 2] ^= 1
        journal.write_bytes(data)
    elif damage == "half a journal":
        journal.write_bytes(journal.read_bytes()[: journal.stat().st_size // 2])
    elif damage == "shard":
        shard.write_bytes(shard.read_bytes()[:-1])
    else:
        shard.unlink()
    (partial / ".journal.npz.01234567").write_bytes(b"cut")
    prepare([inputs], tmp_path / "out", **SMALL)
    assert bytes_of(tmp_path / "out") == uninterrupted


def test_a_corpus_that_lacks_only_its_name_is_renamed_at_once(
    inputs: Path, uninterrupted: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object) -> None:
        raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "publish", cut)
        with pytest.raises(Cut):
            prepare([inputs], tmp_path / "out", **SMALL)
    monkeypatch.setattr(prepare_module, "CorpusWriter", cut)
    prepare([inputs], tmp_path / "out", **SMALL)
    assert bytes_of(tmp_path / "out") == uninterrupted


@pytest.mark.usefixtures("eager")
def test_a_full_disk_is_reported_and_prepare_resumes_when_there_is_room(
    inputs: Path, uninterrupted: dict[str, bytes], tmp_path: Path
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)  # a limit on this process, like a quota
    largest_bytes = max(map(len, uninterrupted.values()))
    for share in (0.1, 0.6, 0.99):
        limit_bytes = int(share * largest_bytes)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limits[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                prepare([inputs], tmp_path / "out", **SMALL)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    prepare([inputs], tmp_path / "out", **SMALL)
    assert bytes_of(tmp_path / "out") == uninterrupted


def test_a_journal_returns_what_was_written_to_it(inputs: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_writer, "JOURNAL_EVERY_S", 0.0)
        point = read_journal(stop_after(20, [inputs], tmp_path / "out"))
    assert point is not None
    assert point.num_documents == 20
    state = point.writers["train"]
    assert state.open_shard is not None
    num_tokens = sum(shard.num_tokens for shard in [*state.shards, state.open_shard]) + len(state.block_tokens)
    assert num_tokens == point.counts["train"].sum()
    assert state.block_lens.sum() == len(state.block_tokens)
    assert read_journal(tmp_path) is None
    assert not (tmp_path / "out").exists()
