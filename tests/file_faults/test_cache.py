"""Faults of the disk with the cache of a corpus on a server, in real runs."""

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from foretrain.trainer.run.exit_status import EXIT_DONE, EXIT_FAILED, EXIT_HANG, EXIT_RESUME
from tests.data_pipeline.corpus.http_server import serving
from tests.file_faults.faults import Fault, FileFaults
from tests.file_faults.runs import CONFIG, Runs, one_line, stalls, with_error
from tests.file_faults.served import Server

pytestmark = pytest.mark.long
BASE = 2
TEXT = f"""
run_dir: runs/x
model: {{num_layers: 1, d_model: 32, num_heads: 2, d_ff: 64, seq_len: 32}}
data: {{path: URL, max_bad_samples: 1000, cache: {{dir: cache, retries: 0, timeout_s: 5.0}}}}
parallel: {{dp: 1}}
train: {{num_tokens: {4 * 4 * 32}, global_batch_size: 4, eval_samples: 4, eval_every: 0, checkpoint_every: 1,
         checkpoint_in_background: false, log_every: 1}}
sample: {{prompts: []}}
"""
"""A run in which samples may be replaced, if no other start could read them."""
CACHE = "*/cache"
KEPT, SHARD = f"{CACHE}/*/kept", f"{CACHE}/*/train-*.tar"
PART = f"{SHARD}.*.part"
AT_START = (
    Fault("mkdir", CACHE),
    Fault("mkdir", f"{CACHE}/*.corpus"),
    Fault("open", f"{CACHE}/lock"),
    Fault("lock", f"{CACHE}/lock", first=2),
    Fault("list", f"{CACHE}/*"),
    Fault("open", f"{KEPT}/*.part"),
    Fault("write", f"{KEPT}/*.part"),
    Fault("fsync", f"{KEPT}/*.part"),
    Fault("lock", f"{KEPT}/*.part"),
    Fault("rename", f"{KEPT}/*"),
)
"""What a start writes into an empty cache, before it does anything else."""
READ = (
    Fault("open", f"{KEPT}/manifest.json"),
    Fault("read", f"{KEPT}/train.index.npy"),
    Fault("read", f"{KEPT}/tokenizer.json"),
)
SURVIVED = (
    Fault("write", PART),  # in the thread that fetches ahead
    Fault("rename", SHARD, is_done=True),
)
IN_THE_RUN = (
    Fault("write", PART, count=1000),
    Fault("fsync", PART, count=1000),
    Fault("rename", SHARD, count=1000),
    Fault("write", f"{CACHE}/*/val-*.part", count=1000),
)


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, corpus: Path, file_faults: FileFaults, server: Server
) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("user")
    shutil.copytree(corpus, folder / "corpus")
    with serving(folder / "corpus") as corpora:
        (folder / CONFIG).write_text(TEXT.replace("URL", corpora.url), encoding="utf-8")
        yield Runs(folder, file_faults, server, BASE)


def forget_cache(runs: Runs) -> None:
    shutil.rmtree(runs.folder / "cache", ignore_errors=True)


def assert_sound(runs: Runs) -> None:
    """Assert that no file in the cache is anything but a complete file of the corpus."""
    for path in (runs.folder / "cache").rglob("*.*"):
        if path.is_file():
            assert path.read_bytes() == (runs.folder / "corpus" / path.name).read_bytes(), path


def test_a_fault_of_an_empty_cache_is_one_line_and_asks_for_another_start(runs: Runs) -> None:
    runs.reset_to_base()
    for number, fault in enumerate((*AT_START, *READ)):
        if fault in AT_START:
            forget_cache(runs)
        ended = runs.start(with_error([fault], (errno.EIO, errno.ESTALE)[number % 2]))
        assert ended.status == EXIT_RESUME, (fault, ended.err)
        line = one_line(ended)
        assert "the file system or the network has failed" in line and "cache" in line, line
    assert runs.start().status == EXIT_DONE
    runs.assert_complete()
    assert_sound(runs)


def test_a_full_disk_with_the_cache_ends_a_start_with_one_line_and_replaces_no_sample(runs: Runs) -> None:
    runs.reset_to_base()
    for fault in (AT_START[1], AT_START[6], *IN_THE_RUN[:1], *IN_THE_RUN[2:]):
        forget_cache(runs)
        ended = runs.start(with_error([fault], errno.ENOSPC))
        assert ended.status == EXIT_FAILED, (fault, ended.err)
        line = one_line(ended)
        assert "No space left on device" in line and ("make room" in line or "free some space" in line), line
    assert runs.start().status == EXIT_DONE
    runs.assert_complete()
    assert_sound(runs)


def test_a_fault_of_the_cache_in_a_step_asks_for_another_start_and_replaces_no_sample(runs: Runs) -> None:
    runs.reset_to_base()
    for fault in IN_THE_RUN:
        forget_cache(runs)
        ended = runs.start([fault])
        assert ended.status == EXIT_HANG, (fault, ended.err)
        assert "the run ends, to be started again from its last checkpoint" in one_line(ended)
    forget_cache(runs)
    reads = Fault("read", SHARD, count=1000)
    assert runs.start([reads]).status == EXIT_HANG
    assert runs.start().status == EXIT_DONE
    runs.assert_complete()


def test_a_run_survives_a_fault_of_a_download_that_is_tried_again(runs: Runs) -> None:
    runs.reset_to_base()
    forget_cache(runs)
    ended = runs.start(SURVIVED)
    assert (ended.status, ended.err) == (EXIT_DONE, "")
    runs.assert_complete()
    assert_sound(runs)


def test_a_run_waits_for_a_cache_that_stalls(runs: Runs) -> None:
    runs.reset_to_base()
    forget_cache(runs)
    ended = runs.start(stalls((*AT_START, *READ, *SURVIVED, *IN_THE_RUN)))
    assert (ended.status, ended.err) == (EXIT_DONE, "")
    runs.assert_complete()
    assert_sound(runs)
