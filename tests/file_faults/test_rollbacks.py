"""Faults of the file system while a run goes back to a checkpoint, and when a start reads what it has left out."""

import errno
import shutil
from pathlib import Path

import pytest

from foretrain.trainer.anomalies.rollbacks import ROLLBACKS_FILE, read_rollbacks
from foretrain.trainer.metrics import METRICS_FILE
from foretrain.trainer.run.exit_status import EXIT_DONE, EXIT_FAILED, EXIT_HANG, EXIT_RESUME
from foretrain.trainer.run.folder import CHECKPOINTS
from tests.file_faults.faults import Fault, FileFaults
from tests.file_faults.runs import CONFIG, Runs, one_line, stalls
from tests.file_faults.served import Server
from tests.plugins.planted import NAN

pytestmark = pytest.mark.long
BASE, BAD_STEP = 4, 5
TEXT = f"""
run_dir: runs/x
plugins: [tests.plugins.planted]
objective: {{kind: planted, options: {{first: {BAD_STEP * 4 - 1}, end: {BAD_STEP * 4}, fault: {NAN}}}}}
model: {{num_layers: 1, d_model: 32, num_heads: 2, d_ff: 64, seq_len: 32}}
data: {{path: corpus}}
parallel: {{dp: 1}}
train: {{num_tokens: {7 * 4 * 32}, global_batch_size: 4, eval_samples: 0, checkpoint_every: 2, log_every: 1,
         checkpoint_in_background: false, on_non_finite: rollback}}
sample: {{prompts: []}}
"""
"""A run that goes back from step BAD_STEP to the checkpoint of step BASE."""
RUN = "*/runs/x"
NEW = f"{RUN}/.{ROLLBACKS_FILE}*"
WRITTEN = (
    Fault("open", NEW),
    Fault("write", NEW),
    Fault("fsync", NEW),
    Fault("close", NEW),
    Fault("rename", f"{RUN}/{ROLLBACKS_FILE}"),
    Fault("write", f"{RUN}/.{METRICS_FILE}*", first=2),  # the first one is that of the start
)
"""What a rollback writes. None of these faults lets it be recorded, so the next start meets the bad step, too."""
READ = Fault("read", f"{RUN}/{CHECKPOINTS}/step-{BASE:08d}/*.distcp", first=3)
"""A fault of the checkpoint that a rollback loads."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, corpus: Path, file_faults: FileFaults, server: Server) -> Runs:
    folder = tmp_path_factory.mktemp("user")
    shutil.copytree(corpus, folder / "corpus")
    (folder / CONFIG).write_text(TEXT, encoding="utf-8")
    return Runs(folder, file_faults, server, BASE)


def test_a_fault_while_a_run_goes_back_ends_the_start_and_the_next_one_goes_back_in_the_same_way(runs: Runs) -> None:
    runs.reset_to_base()
    for fault in (*WRITTEN[:-1], READ, WRITTEN[-1]):
        ended = runs.start([fault])
        assert ended.status == EXIT_HANG, (fault, ended.err)
        assert "the run ends, to be started again from its last checkpoint" in one_line(ended)
        assert not [*runs.run_dir.glob(".rollbacks*")], "half of a file is left"
    lost_answer = Fault("rename", f"{RUN}/{ROLLBACKS_FILE}", is_done=True)
    (runs.run_dir / ROLLBACKS_FILE).unlink(missing_ok=True)
    assert runs.start([lost_answer]).status == EXIT_HANG
    assert runs.start().status == EXIT_DONE
    runs.assert_complete()
    assert [(each.step, each.to_step) for each in read_rollbacks(runs.run_dir)] == [(BAD_STEP, BASE)]


def test_a_full_disk_while_a_run_goes_back_is_one_line_that_names_the_file(runs: Runs) -> None:
    runs.reset_to_base()
    for fault in (WRITTEN[1], WRITTEN[-1]):
        ended = runs.start([Fault(fault.call, fault.pattern, errno.ENOSPC, fault.first)])
        assert ended.status == EXIT_FAILED, (fault, ended.err)
        line = one_line(ended)
        assert "No space left on device" in line and "free some" in line, line
        assert ROLLBACKS_FILE in line or METRICS_FILE in line, line
    assert runs.start().status == EXIT_DONE
    runs.assert_complete()


def test_rollbacks_that_cannot_be_read_or_removed_now_end_the_start_which_is_made_again(runs: Runs) -> None:
    runs.reset_to_base()
    assert runs.start(stop_after=BASE + 2).status == EXIT_DONE
    for call in ("open", "read"):
        ended = runs.start([Fault(call, f"{RUN}/{ROLLBACKS_FILE}", errno.ESTALE)])
        assert ended.status == EXIT_RESUME, ended.err
        assert f"{ROLLBACKS_FILE}: Stale file handle" in one_line(ended)
    assert runs.start().status == EXIT_DONE
    runs.assert_complete()
    shutil.rmtree(runs.run_dir / CHECKPOINTS)  # what the run before has left is removed by one that starts at step 0
    assert runs.start([Fault("unlink", f"{RUN}/{ROLLBACKS_FILE}")]).status == EXIT_HANG
    assert runs.start().status == EXIT_DONE
    runs.assert_complete()


def test_a_rollback_waits_for_files_that_stall(runs: Runs) -> None:
    runs.reset_to_base()
    (runs.run_dir / ROLLBACKS_FILE).unlink(missing_ok=True)
    ended = runs.start(stalls((*WRITTEN, READ)))
    assert (ended.status, "error" in ended.err) == (EXIT_DONE, False), ended.err
    runs.assert_complete()
    assert [(each.step, each.to_step) for each in read_rollbacks(runs.run_dir)] == [(BAD_STEP, BASE)]
