"""Faults of the file system in real runs: EIO, ENOSPC, ESTALE and stalls of what a run reads and writes.

Every run of the tables is one rank with the complete command line, as a cluster starts it. After whatever happened, the
next start without a fault has the curve of a run that met none, to the bit. FORETRAIN_STALL_S: seconds of a stall.
"""

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from foretrain.launcher.launches import launches
from foretrain.launcher.restart import read_starts
from foretrain.trainer.metrics import METRICS_FILE, read_metrics
from foretrain.trainer.run.exit_status import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAILED, EXIT_HANG, EXIT_RESUME
from foretrain.trainer.run.folder import CHECKPOINTS
from tests.cli import end, start
from tests.file_faults.faults import STALL, Fault, FileFaults
from tests.file_faults.runs import CONFIG, Runs, one_line, stalls, with_error
from tests.file_faults.served import Server

pytestmark = pytest.mark.long
BASE, NUM_STEPS = 2, 12
TEXT = f"""
run_dir: runs/x
model: {{num_layers: 1, d_model: 32, num_heads: 2, d_ff: 64, seq_len: 32}}
data: {{path: corpus}}
parallel: {{dp: 1}}
train: {{num_tokens: {NUM_STEPS * 4 * 32}, global_batch_size: 4, eval_samples: 4, eval_every: 0, checkpoint_every: 1,
         checkpoint_in_background: false, log_every: 1}}
sample: {{prompts: []}}
"""
PASSING = (errno.EIO, errno.ESTALE)
RUN = "*/runs/x"
NAMES = {**errno.errorcode, STALL: "stall"}


def step(number: int) -> str:
    return f"{RUN}/{CHECKPOINTS}/step-{number:08d}"


def partial(number: int) -> str:
    return f"{RUN}/{CHECKPOINTS}/partial-step-{number:08d}"


SURVIVED = (
    Fault("open", "*/corpus/train-*.tar"),
    Fault("read", "*/corpus/val-*.tar"),
    Fault("write", f"{RUN}/{METRICS_FILE}", first=2, count=2),
    Fault("close", f"{RUN}/{METRICS_FILE}", first=2),
    Fault("write", f"{RUN}/run.log", first=2, count=2),
    Fault("close", f"{RUN}/run.log"),
    Fault("write", f"{RUN}/ledger.jsonl", first=2),
    Fault("write", f"{RUN}/.goodput.json*"),
    Fault("open", f"{RUN}/tensorboard/*"),
    Fault("close", f"{RUN}/.lock"),
    Fault("open", f"{RUN}/loss.png"),
    Fault("fsync", f"{RUN}/{CHECKPOINTS}"),
    Fault("mkdir", partial(4)),
    Fault("write", f"{partial(5)}/*.distcp"),
    Fault("fsync", f"{partial(6)}/*.distcp"),
    Fault("write", f"{partial(7)}/.metadata"),
    Fault("write", f"{partial(8)}/.run.json*"),
    Fault("rename", f"{partial(9)}/checksums.json"),
    Fault("rename", step(10)),
    Fault("unlink", f"{partial(10)}/*.distcp"),  # what is left of the save that fails
    Fault("unlink", f"{partial(1)}/*.distcp"),  # a checkpoint that is not kept
)
"""Faults of a run that it survives: a later write succeeds, or what is lost is not needed."""
FAILED_SAVES = {4, 5, 6, 7, 8, 9, 10}
"""The steps whose checkpoints cannot be written because of them."""
LAST_SAVE = Fault("write", f"{partial(NUM_STEPS)}/*.distcp")
LOST_ANSWER = Fault("rename", step(11), is_done=True)
READ_AT_START = (
    Fault("open", "*/tiny.yaml"),
    Fault("read", "*/tiny.yaml"),
    Fault("stat", "*/corpus/manifest.json"),
    Fault("read", "*/corpus/manifest.json"),
    Fault("read", "*/corpus/train.index.npy"),
    Fault("open", "*/corpus/val.index.npy"),
    Fault("read", "*/corpus/tokenizer.json"),
    Fault("open", "*/corpus/train-*.tar"),
    Fault("read", "*/corpus/train-*.tar"),
    Fault("list", f"{RUN}/{CHECKPOINTS}"),
    Fault("stat", f"{step(BASE)}/run.json"),
    Fault("read", f"{step(BASE)}/run.json"),
    Fault("read", f"{step(BASE)}/checksums.json"),
    Fault("read", f"{step(BASE)}/.metadata"),
    Fault("read", f"{step(BASE)}/*.distcp"),
    Fault("read", f"{step(BASE)}/config.yaml"),
    Fault("open", f"{RUN}/rollbacks.json"),
    Fault("lock", f"{RUN}/.lock"),
)
"""What a start reads, before it does anything else."""
WRITTEN_AT_START = (
    Fault("open", f"{RUN}/.lock"),
    Fault("write", f"{RUN}/.lock", first=2),
    Fault("write", f"{RUN}/.config.yaml*"),
    Fault("rename", f"{RUN}/config.yaml"),
    Fault("write", f"{RUN}/.environment.json*"),
    Fault("write", f"{RUN}/.description.json*"),
    Fault("write", f"{RUN}/ledger.jsonl"),
)
WRITTEN_BY_LAUNCH = (
    Fault("open", f"{RUN}/code.new/*"),
    Fault("rename", f"{RUN}/code"),
    Fault("write", f"{RUN}/.job.sh*"),
    Fault("rename", f"{RUN}/job.sh"),
    Fault("write", f"{RUN}/launches.jsonl"),
)
"""What a launch writes, before the first start."""
IN_THE_RUN = (
    Fault("open", "*/corpus/train-*.tar", count=2),
    Fault("read", "*/corpus/train-*.tar", count=2),
    Fault("read", "*/corpus/val-*.tar", count=2),
    Fault("open", f"{step(BASE)}/*.distcp", first=3),
    Fault("open", f"{RUN}/{METRICS_FILE}"),
    Fault("open", f"{RUN}/run.log"),
    Fault("rename", f"{RUN}/{METRICS_FILE}"),
    replace(LAST_SAVE, count=100),
)
"""Faults that end a run, which is to be started again. Shards are read twice, so that one fault would not do."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A folder with a config and its corpus."""
    folder = tmp_path_factory.mktemp("user")
    shutil.copytree(corpus, folder / "corpus")
    (folder / CONFIG).write_text(TEXT, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def runs(folder: Path, file_faults: FileFaults, server: Server) -> Runs:
    return Runs(folder, file_faults, server, BASE)


@pytest.mark.parametrize("error", [errno.EIO, errno.ESTALE, errno.ENOSPC], ids=NAMES.get)
def test_a_run_survives_faults_of_its_records_and_checkpoints(error: int, runs: Runs) -> None:
    runs.reset_to_base()
    faults = [*SURVIVED, LOST_ANSWER, LAST_SAVE]
    if error == errno.ENOSPC:  # which ends the last save, and which no read meets
        faults = [fault for fault in SURVIVED if "/corpus/" not in fault.pattern]
    ended = runs.start(with_error(faults, error))
    assert (ended.status, "Traceback" in ended.err) == (EXIT_DONE, False), ended.err
    failed = [record for record in read_metrics(runs.run_dir / METRICS_FILE) if record["kind"] == "checkpoint_failed"]
    assert {record["step"] for record in failed} == FAILED_SAVES | ({NUM_STEPS} if LAST_SAVE in faults else set())
    assert all(os.strerror(error) in record["error"] for record in failed)
    assert f"is complete, and its end cannot be shown ([Errno {error}]" in ended.err
    runs.assert_complete()


def test_a_run_waits_for_files_that_stall(runs: Runs) -> None:
    runs.reset_to_base()
    runs.forget_checks()
    ended = runs.start(stalls((*READ_AT_START, *WRITTEN_AT_START, *SURVIVED, *IN_THE_RUN)))
    assert (ended.status, ended.err) == (EXIT_DONE, "")
    assert "checkpoint_failed" not in (runs.run_dir / METRICS_FILE).read_text(encoding="utf-8")
    runs.assert_complete()


def test_a_fault_of_what_a_start_reads_or_writes_is_one_line_and_asks_for_another_start(runs: Runs) -> None:
    runs.reset_to_base()
    for fault in (*READ_AT_START, *WRITTEN_AT_START):
        for error in PASSING:
            runs.forget_checks()
            ended = runs.start(with_error([fault], error))
            assert ended.status == EXIT_RESUME, (fault, ended.err)
            line = one_line(ended)
            assert os.strerror(error) in line and "the file system or the network has failed" in line, line
            assert "a file or server" not in line, line
    assert {path.name for path in (runs.run_dir / CHECKPOINTS).iterdir()} == {"step-00000001", "step-00000002"}
    assert runs.start().status == EXIT_DONE
    runs.assert_complete()


def test_a_full_disk_is_one_line_that_says_so_and_the_next_start_continues(runs: Runs) -> None:
    runs.reset_to_base()
    at_start = with_error(WRITTEN_AT_START, errno.ENOSPC)
    in_the_run = with_error([Fault("rename", f"{RUN}/{METRICS_FILE}"), LAST_SAVE], errno.ENOSPC)
    for fault in (*at_start, *in_the_run):
        ended = runs.start([fault])
        assert ended.status == EXIT_FAILED, (fault, ended.err)
        line = one_line(ended)
        assert "No space left on device" in line and "free some" in line, line
    assert runs.start().status == EXIT_DONE
    runs.assert_complete()


def test_a_fault_that_ends_a_run_asks_for_another_start_which_continues_on_the_same_curve(runs: Runs) -> None:
    runs.reset_to_base()
    assert runs.start(stop_after=BASE).status == EXIT_DONE  # looks at the corpus, so that only the steps read it
    for number, fault in enumerate(IN_THE_RUN):
        ended = runs.start(with_error([fault], PASSING[number % len(PASSING)]))
        assert ended.status == EXIT_HANG, (fault, ended.err)
        assert "the run ends, to be started again from its last checkpoint" in one_line(ended)
    assert runs.start().status == EXIT_DONE
    runs.assert_complete()


def test_a_fault_of_what_a_launch_writes_is_one_line_and_leaves_nothing_half_written(runs: Runs) -> None:
    runs.reset_to_base()
    for number, fault in enumerate(WRITTEN_BY_LAUNCH):
        error = (errno.EIO, errno.ENOSPC)[number % 2]
        ended = runs.launch(with_error([fault], error))
        assert ended.status == EXIT_BAD_INPUT, (fault, ended.err)
        assert os.strerror(error) in one_line(ended)
        assert (runs.run_dir / "job.sh").exists() == (fault is WRITTEN_BY_LAUNCH[-1])
        assert not [*runs.run_dir.glob(".job.sh*")], "half of a file is left"
    assert launches(runs.run_dir) == []


def test_a_launch_on_this_machine_starts_again_after_faults_at_its_start_and_in_its_steps(
    runs: Runs, file_faults: FileFaults
) -> None:
    runs.reset_to_base()
    faults = [
        Fault("write", f"{RUN}/starts.jsonl"),  # is waited for, and recorded once
        Fault("write", f"{RUN}/.description.json*"),
        Fault("read", "*/corpus/train-*.tar", count=3),  # so that one of two ranks meets two
    ]
    with file_faults.having(faults):
        process = start("launch", CONFIG, "parallel.dp=2", cwd=runs.folder, **file_faults.variables)
        ended = end(process)
    assert ended.status == EXIT_DONE, ended.err
    assert ended.err.count("lost a server or a file system (see the logs)") == 2, ended.err
    assert [each.step for each in read_starts(runs.run_dir)] == [BASE] * 3
    assert len(runs.losses(runs.run_dir)) == NUM_STEPS
