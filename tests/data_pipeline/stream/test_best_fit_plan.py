"""A best-fit plan is found again, is never used when damaged, and is made once for many processes."""

import multiprocessing
import os
import pickle
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretrain.data_pipeline.corpus.shards import TokenStream
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.stream.best_fit_plan import ABANDONED_S, ARRAYS, BestFitPlan, open_plan
from foretrain.data_pipeline.stream.packing import BestFitSamples
from tests.data_pipeline.stream.memory_stream import MemoryStream, pack_and_count

DOC_LENS = np.random.default_rng(0).integers(1, 40, 60).tolist()
CUTS = (200, 210, 700)
SEQ_LEN = 16


@pytest.fixture
def memory(tmp_path: Path) -> MemoryStream:
    """A stream whose folder can hold a plan, and which logs when its documents are read."""
    (tmp_path / "corpus").mkdir()
    return MemoryStream(tmp_path / "corpus", DOC_LENS, CUTS, log=tmp_path / "log")


@pytest.fixture(autouse=True)
def user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the user for one test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _equal(one: BestFitPlan, other: BestFitPlan) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ARRAYS)


def _only_plan(folder: Path) -> Path:
    (plan,) = folder.iterdir()
    return plan


def _content(plan: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in plan.iterdir()}


def test_a_plan_is_made_once_and_found_again(memory: MemoryStream) -> None:
    made = open_plan(memory.as_stream(), SEQ_LEN, None)
    assert memory.log is not None
    memory.log.unlink()
    assert _equal(open_plan(memory.as_stream(), SEQ_LEN, None), made)
    assert not memory.log.exists()
    assert np.array_equal(np.fromfile(_only_plan(memory.folder) / "pieces", "<i8").reshape(-1, 2), made.pieces)


def test_a_plan_has_the_same_bytes_wherever_it_is_made(memory: MemoryStream, tmp_path: Path) -> None:
    open_plan(memory.as_stream(), SEQ_LEN, None)
    open_plan(memory.as_stream(), SEQ_LEN, tmp_path / "elsewhere")
    plan, other = _only_plan(memory.folder), _only_plan(tmp_path / "elsewhere" / "plans")
    assert plan.name == other.name
    assert _content(plan) == _content(other)


def test_each_seq_len_and_each_corpus_has_its_own_plan(memory: MemoryStream) -> None:
    one = open_plan(memory.as_stream(), SEQ_LEN, None)
    plan = _only_plan(memory.folder)
    other = MemoryStream(memory.folder, list(reversed(DOC_LENS)), CUTS, fingerprint="0" * 64)
    expected = {
        seq_len: open_plan(stream.as_stream(), seq_len, None) for stream, seq_len in [(other, SEQ_LEN), (memory, 32)]
    }
    plans = [each for each in memory.folder.iterdir() if each != plan]
    assert len(plans) == 2
    for each in plans:  # a plan under the name of another plan
        shutil.rmtree(each)
        shutil.copytree(plan, each)
    assert _equal(open_plan(other.as_stream(), SEQ_LEN, None), expected[SEQ_LEN])
    assert _equal(open_plan(memory.as_stream(), 32, None), expected[32])
    assert not _equal(one, expected[SEQ_LEN])


@pytest.fixture(scope="module")
def plan_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[MemoryStream, Path, dict[str, bytes]]:
    """A stream, the folder of its plan, and the content of each file."""
    memory = MemoryStream(tmp_path_factory.mktemp("corpus"), DOC_LENS, CUTS)
    open_plan(memory.as_stream(), SEQ_LEN, None)
    plan = _only_plan(memory.folder)
    return memory, plan, _content(plan)


@settings(max_examples=40)
@given(data=st.data())
def test_a_damaged_plan_is_made_again(
    plan_folder: tuple[MemoryStream, Path, dict[str, bytes]], data: st.DataObject
) -> None:
    memory, plan, content = plan_folder
    file = plan / data.draw(st.sampled_from(sorted(content)))
    sound = content[file.name]
    at = data.draw(st.integers(0, len(sound) - 1) | st.integers(max(0, len(sound) - 64), len(sound) - 1))
    damage = data.draw(st.sampled_from(["flip", "cut", "insert", "append", "zero", "remove"]))
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
    file.unlink() if damage == "remove" else file.write_bytes(damaged)
    open_plan(memory.as_stream(), SEQ_LEN, None)
    assert _content(plan) == content


def test_if_the_corpus_cannot_be_written_to_the_plan_is_kept_in_the_users_cache(
    memory: MemoryStream, tmp_path: Path, user_cache: Path
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file is no folder, even for root")
    memory.folder = taken
    plan = open_plan(memory.as_stream(), SEQ_LEN, None)
    assert _content(_only_plan(user_cache / "foretrain" / "plans")).keys() == {*ARRAYS, "plan.json"}
    assert _equal(open_plan(memory.as_stream(), SEQ_LEN, taken / "cache"), plan)


def test_if_no_folder_can_be_written_to_the_error_says_what_to_set(
    memory: MemoryStream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("")
    memory.folder = taken
    monkeypatch.setenv("XDG_CACHE_HOME", str(taken))
    with pytest.raises(CorpusError, match=r"cannot be written to .*taken .*nor to .*set data\.cache\.dir"):
        open_plan(memory.as_stream(), SEQ_LEN, None)


def test_documents_that_do_not_add_up_to_the_stream_are_refused(memory: MemoryStream) -> None:
    sound = memory.starts
    for wrong in (sound[1:], np.sort(np.append(sound, sound[5])), np.delete(sound, np.s_[:20])):
        memory.starts = wrong
        with pytest.raises(CorpusError, match=r"lengths of documents in train-000000\.tar .* do not add up"):
            open_plan(memory.as_stream(), SEQ_LEN, None)
    assert list(memory.folder.iterdir()) == []


def test_processes_that_need_a_plan_at_the_same_time_make_it_once(memory: MemoryStream) -> None:
    memory.seconds_per_shard = 0.25  # so that the others arrive while the first makes it
    context = multiprocessing.get_context("spawn")
    with context.Pool(3) as pool:
        counts = pool.starmap(pack_and_count, [(memory, SEQ_LEN)] * 3, chunksize=1)
    assert len(set(counts)) == 1
    assert memory.log is not None
    assert len(memory.log.read_text().splitlines()) == len(memory.shard_names)
    assert _only_plan(memory.folder).is_dir()


def test_what_a_killed_process_leaves_is_never_used_and_is_removed_after_an_hour(memory: MemoryStream) -> None:
    memory.killed_at_shard = 2
    process = multiprocessing.get_context("spawn").Process(target=pack_and_count, args=(memory, SEQ_LEN))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (unfinished,) = memory.folder.glob(".*/plan")
    assert list(memory.folder.glob("train*")) == []
    memory.killed_at_shard = None
    plan = open_plan(memory.as_stream(), SEQ_LEN, None)
    assert plan.pieces[:, 1].sum() == memory.num_tokens
    assert unfinished.exists()  # a process of another machine might still write it
    long_ago_s = time.time() - ABANDONED_S - 60
    os.utime(unfinished / "pieces", (long_ago_s, long_ago_s))
    (made,) = memory.folder.glob("train*")
    shutil.rmtree(made)
    open_plan(memory.as_stream(), SEQ_LEN, None)
    assert _only_plan(memory.folder) == made


def test_packing_reports_its_progress(memory: MemoryStream, capsys: pytest.CaptureFixture[str]) -> None:
    open_plan(memory.as_stream(), SEQ_LEN, None)
    assert capsys.readouterr().err == ""
    shutil.rmtree(_only_plan(memory.folder))
    open_plan(memory.as_stream(), SEQ_LEN, None, progress=True)
    assert "packing" in capsys.readouterr().err


def test_a_pickled_copy_maps_the_plan_again_and_makes_it_again_if_it_is_gone(memory: MemoryStream) -> None:
    samples = BestFitSamples(memory.as_stream(), SEQ_LEN)
    pickled = pickle.dumps(samples)
    assert len(pickled) < 10_000 + memory.tokens.nbytes + memory.starts.nbytes * 3
    assert _equal(pickle.loads(pickled).plan, samples.plan)
    shutil.rmtree(_only_plan(memory.folder))
    assert _equal(pickle.loads(pickled).plan, samples.plan)


def test_the_plan_of_a_prepared_corpus_has_every_token_once(stream: TokenStream, tmp_path: Path) -> None:
    plan = open_plan(stream, SEQ_LEN, tmp_path)
    starts, lengths = plan.pieces[np.argsort(plan.pieces[:, 0])].T
    assert starts[0] == 0
    assert np.array_equal(starts[1:], (starts + lengths)[:-1])
    assert starts[-1] + lengths[-1] == stream.num_tokens
