"""The file of a best-fit plan: found again, never believed when damaged, and made once by many processes."""

import multiprocessing
import pickle
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretrain.data_pipeline.corpus.shards import TokenStream
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.stream.best_fit_plan import Plan, open_plan
from foretrain.data_pipeline.stream.packing import BestFit
from tests.data_pipeline.stream.memory_stream import MemoryStream, pack_and_count

DOC_LENS = np.random.default_rng(0).integers(1, 40, 60).tolist()
CUTS = (200, 210, 700)
SEQ_LEN = 16


@pytest.fixture
def memory(tmp_path: Path) -> MemoryStream:
    """A stream whose folder can hold a plan, and that notes when its documents are read."""
    (tmp_path / "corpus").mkdir()
    return MemoryStream(tmp_path / "corpus", DOC_LENS, CUTS, log=tmp_path / "log")


@pytest.fixture(autouse=True)
def user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder, of this test only."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _equal(one: Plan, other: Plan) -> bool:
    names = ("pieces", "sample_starts", "shard_starts")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def _only_file(folder: Path) -> Path:
    (file,) = folder.iterdir()
    return file


def test_a_plan_is_made_once_and_found_again(memory: MemoryStream) -> None:
    made = open_plan(memory.as_stream(), SEQ_LEN, None)
    assert memory.log is not None
    memory.log.unlink()
    assert _equal(open_plan(memory.as_stream(), SEQ_LEN, None), made)
    assert not memory.log.exists()
    assert np.array_equal(np.load(_only_file(memory.folder))[: made.pieces.size].reshape(-1, 2), made.pieces)


def test_a_plan_is_one_file_and_the_same_bytes_wherever_it_is_made(memory: MemoryStream, tmp_path: Path) -> None:
    open_plan(memory.as_stream(), SEQ_LEN, None)
    open_plan(memory.as_stream(), SEQ_LEN, tmp_path / "elsewhere")
    file, other = _only_file(memory.folder), _only_file(tmp_path / "elsewhere" / "plans")
    assert file.name == other.name
    assert file.read_bytes() == other.read_bytes()


def test_each_seq_len_and_each_corpus_has_its_own_plan(memory: MemoryStream) -> None:
    one = open_plan(memory.as_stream(), SEQ_LEN, None)
    file = _only_file(memory.folder)
    other = MemoryStream(memory.folder, list(reversed(DOC_LENS)), CUTS, fingerprint="0" * 64)
    expected = {
        seq_len: open_plan(stream.as_stream(), seq_len, None) for stream, seq_len in [(other, SEQ_LEN), (memory, 32)]
    }
    files = [each for each in memory.folder.iterdir() if each != file]
    assert len(files) == 2
    for each in files:  # a plan under another's name
        each.unlink()
        shutil.copyfile(file, each)
    assert _equal(open_plan(other.as_stream(), SEQ_LEN, None), expected[SEQ_LEN])
    assert _equal(open_plan(memory.as_stream(), 32, None), expected[32])
    assert not _equal(one, expected[SEQ_LEN])


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[MemoryStream, Path, bytes]:
    """A stream, the file of its plan, and the file's bytes."""
    memory = MemoryStream(tmp_path_factory.mktemp("corpus"), DOC_LENS, CUTS)
    open_plan(memory.as_stream(), SEQ_LEN, None)
    file = _only_file(memory.folder)
    return memory, file, file.read_bytes()


@given(data=st.data())
def test_a_damaged_plan_is_made_again(plan_file: tuple[MemoryStream, Path, bytes], data: st.DataObject) -> None:
    memory, file, sound = plan_file
    at = data.draw(st.integers(0, len(sound) - 1) | st.integers(0, 140) | st.integers(len(sound) - 64, len(sound) - 1))
    damage = data.draw(st.sampled_from(["flip", "cut", "insert", "append", "zero"]))
    if damage == "flip":
        damaged = sound[:at] + bytes([sound[at] ^ (1 << data.draw(st.integers(0, 7)))]) + sound[at + 1 :]
    elif damage == "cut":
        damaged = sound[:at]
    elif damage == "insert":
        damaged = sound[:at] + sound[at : at + 8] + sound[at:]
    elif damage == "append":
        damaged = sound + bytes(data.draw(st.integers(1, 24)))
    else:
        damaged = sound[:at] + bytes(len(sound) - at)
    file.write_bytes(damaged)
    open_plan(memory.as_stream(), SEQ_LEN, None)
    assert file.read_bytes() == sound


def test_a_folder_that_cannot_be_written_leaves_the_plan_to_the_users_cache(
    memory: MemoryStream, tmp_path: Path, user_cache: Path
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file is no folder, even for root")
    memory.folder = taken
    plan = open_plan(memory.as_stream(), SEQ_LEN, None)
    assert _only_file(user_cache / "foretrain" / "plans").suffix == ".npy"
    assert _equal(open_plan(memory.as_stream(), SEQ_LEN, taken / "cache"), plan)


def test_no_folder_to_write_into_is_refused_with_what_to_set(
    memory: MemoryStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("")
    memory.folder = taken
    monkeypatch.setenv("XDG_CACHE_HOME", str(taken))
    with pytest.raises(CorpusError, match=r"cannot be written to .*taken .*nor to .*set data\.cache\.dir"):
        open_plan(memory.as_stream(), SEQ_LEN, None)


def test_documents_that_do_not_make_up_the_stream_are_refused(memory: MemoryStream) -> None:
    sound = memory.starts
    for wrong in (sound[1:], np.sort(np.append(sound, sound[5])), np.delete(sound, np.s_[:20])):
        memory.starts = wrong
        with pytest.raises(CorpusError, match=r"lengths of documents in train-000000\.tar .* do not add up"):
            open_plan(memory.as_stream(), SEQ_LEN, None)
    assert list(memory.folder.iterdir()) == []


def test_processes_that_need_a_plan_at_once_make_it_once(memory: MemoryStream) -> None:
    memory.seconds_per_shard = 0.25  # so that the others come while the first is at it
    context = multiprocessing.get_context("spawn")
    with context.Pool(3) as pool:
        counts = pool.starmap(pack_and_count, [(memory, SEQ_LEN)] * 6, chunksize=1)
    assert len(set(counts)) == 1
    assert memory.log is not None
    assert len(memory.log.read_text().splitlines()) == len(memory.shard_names)
    assert _only_file(memory.folder).suffix == ".npy"


def test_a_process_killed_while_it_packs_leaves_nothing_that_is_believed(memory: MemoryStream) -> None:
    memory.killed_at_shard = 2
    process = multiprocessing.get_context("spawn").Process(target=pack_and_count, args=(memory, SEQ_LEN))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert list(memory.folder.glob("*.npy")) == []
    memory.killed_at_shard = None
    plan = open_plan(memory.as_stream(), SEQ_LEN, None)
    assert plan.pieces[:, 1].sum() == memory.num_tokens


def test_a_long_packing_shows_how_far_it_is(memory: MemoryStream, capsys: pytest.CaptureFixture[str]) -> None:
    open_plan(memory.as_stream(), SEQ_LEN, None)
    assert capsys.readouterr().err == ""
    _only_file(memory.folder).unlink()
    open_plan(memory.as_stream(), SEQ_LEN, None, progress=True)
    assert "packing" in capsys.readouterr().err


def test_a_pickled_copy_maps_the_file_again_and_makes_it_again_where_it_is_gone(memory: MemoryStream) -> None:
    samples = BestFit(memory.as_stream(), SEQ_LEN)
    pickled = pickle.dumps(samples)
    assert len(pickled) < 10_000 + memory.tokens.nbytes + memory.starts.nbytes * 3
    assert _equal(pickle.loads(pickled).plan, samples.plan)
    _only_file(memory.folder).unlink()
    assert _equal(pickle.loads(pickled).plan, samples.plan)


def test_the_plan_of_a_prepared_corpus_has_every_token_once(stream: TokenStream, tmp_path: Path) -> None:
    plan = open_plan(stream, SEQ_LEN, tmp_path)
    starts, lengths = plan.pieces[np.argsort(plan.pieces[:, 0])].T
    assert starts[0] == 0
    assert np.array_equal(starts[1:], (starts + lengths)[:-1])
    assert starts[-1] + lengths[-1] == stream.num_tokens
