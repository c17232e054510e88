"""Faults of the files that a run writes for people: costs of stages, profiles, reports of hangs, summary, samples."""

import errno
import re
import shutil
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import pytest

from foretrain.launcher.restart import read_starts
from foretrain.trainer.metrics import METRICS_FILE, read_metrics
from foretrain.trainer.run.exit_status import EXIT_DONE
from foretrain.trainer.run.folder import HANGS, PROFILES, SAMPLES_FILE, SUMMARY_FILE
from foretrain.trainer.stages.timing import STAGES_FILE
from foretrain.trainer.watch.watcher import REPORT
from tests.cli import Ended
from tests.file_faults.faults import STALL, Fault, FileFaults
from tests.file_faults.runs import CONFIG, STALL_S, with_error
from tests.file_faults.served import Server
from tests.plugins.stopped import STOPPED_IN, STOPPED_RANK

pytestmark = pytest.mark.long
NUM_STEPS, EVERY = 10, 2
LAST_SAVE = STOPPED_IN - 1 - (STOPPED_IN - 1) % EVERY
"""The step of the last checkpoint before a rank stops."""
TEXT = f"""
run_dir: runs/x
plugins: [tests.plugins.stopped]
model: {{num_layers: 2, d_model: 32, num_heads: 2, d_ff: 64, seq_len: 32}}
data: {{path: corpus}}
parallel: {{pp: 2, balance: measured, hang_s: {max(1.0, 1.5 * STALL_S)}, timeout_s: {max(600.0, 60 * STALL_S)}}}
train: {{num_tokens: {NUM_STEPS * 4 * 32}, global_batch_size: 4, eval_samples: 4, eval_every: 0, log_every: 1,
         checkpoint_every: {EVERY}, checkpoint_in_background: false, profile_steps: [2, 3]}}
sample: {{num_tokens: 4, prompts: ["7 plus "]}}
"""
"""A run of two pipeline stages. A rank stops in it once, so the run hangs, and is started again."""
RUN = "*/runs/x"
HANG = f"{RUN}/{HANGS}/*"
AT_STEPS = (
    Fault("write", f"{RUN}/.{STAGES_FILE}*"),  # in the first start
    Fault("rename", f"{RUN}/{STAGES_FILE}"),  # in the second start
    Fault("write", f"{RUN}/{PROFILES}/*.gz"),
    Fault("mkdir", HANG),
    Fault("open", f"{HANG}/.rank-*"),
    Fault("write", f"{HANG}/.rank-*"),
    Fault("rename", f"{HANG}/rank-*"),
    Fault("list", HANG),
    Fault("stat", f"{HANG}/rank-*"),
    Fault("read", f"{HANG}/rank-*"),
    Fault("write", f"{HANG}/.{REPORT}*"),
    Fault("write", f"{RUN}/.{SUMMARY_FILE}*"),
)
AT_END = (Fault("write", f"{RUN}/.{SAMPLES_FILE}*"),)
"""Faults of the same command, when the run is complete."""
ERRORS = ((errno.EIO, errno.ESTALE), (errno.ENOSPC,), (STALL,))
UNSHOWN = "is complete, and its end cannot be shown"


def having(errors: Sequence[int], faults: Sequence[Fault]) -> list[Fault]:
    """Faults with these errors in turn."""
    return [with_error([fault], error)[0] for fault, error in zip(faults, cycle(errors), strict=False)]


class Launches:
    """Launches of the run on this machine."""

    def __init__(self, folder: Path, faults: FileFaults, server: Server) -> None:
        self._folder, self._faults, self._server = folder, faults, server
        self.run_dir = folder / "runs/x"
        assert self.launch([], "run_dir=runs/calm").status == EXIT_DONE
        self.calm = self.losses(folder / "runs/calm")

    def launch(self, faults: Sequence[Fault], *settings: str) -> Ended:
        with self._faults.having(faults):
            return self._server.call("launch", CONFIG, *settings, cwd=self._folder)

    @staticmethod
    def losses(run_dir: Path) -> list[tuple[int, float]]:
        records = read_metrics(run_dir / METRICS_FILE)
        return [(record["step"], record["loss"]) for record in records if record["kind"] == "train"]


@pytest.fixture(scope="module")
def launches(
    tmp_path_factory: pytest.TempPathFactory, corpus: Path, file_faults: FileFaults, server: Server
) -> Launches:
    folder = tmp_path_factory.mktemp("user")
    shutil.copytree(corpus, folder / "corpus")
    (folder / CONFIG).write_text(TEXT, encoding="utf-8")
    return Launches(folder, file_faults, server)


@pytest.mark.parametrize("errors", ERRORS, ids=["passing", "full", "stall"])
def test_a_fault_of_a_file_for_people_neither_changes_a_run_nor_hides_its_hang(
    errors: Sequence[int], launches: Launches
) -> None:
    run_dir, is_stall = launches.run_dir, errors == (STALL,)
    shutil.rmtree(run_dir, ignore_errors=True)
    ended = launches.launch(having(errors, AT_STEPS), "train.callbacks=[stopped_once]")
    assert (ended.status, "Traceback" in ended.err) == (EXIT_DONE, False), ended.err
    assert [each.step for each in read_starts(run_dir)] == [0, LAST_SAVE], ended.err
    assert launches.losses(run_dir) == launches.calm
    assert re.search(rf"rank {STOPPED_RANK} on .* gives no sign of life", ended.err), ended.err
    assert len([*run_dir.glob(f"{HANGS}/*/{REPORT}")]) == is_stall
    assert ("the trace cannot be written" in ended.out) != is_stall, ended.out
    assert (UNSHOWN in ended.err, (run_dir / SUMMARY_FILE).exists()) == (not is_stall, is_stall)
    again = launches.launch(having(errors, AT_END))
    assert (again.status, UNSHOWN in again.err) == (EXIT_DONE, not is_stall), again.err
    assert launches.launch([]).status == EXIT_DONE
    assert (run_dir / SUMMARY_FILE).exists() and (run_dir / SAMPLES_FILE).exists()
