"""Faults of the files that a config names beside its corpus: a sealed prediction, a folder of checkpoints, a plan."""

import errno
import json
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from foretrain.configs import load as configs
from foretrain.trainer.metrics import METRICS_FILE, read_metrics
from foretrain.trainer.run.exit_status import EXIT_DONE, EXIT_FAILED, EXIT_RESUME
from foretrain.trainer.run.folder import PREDICTION_FILE
from foretrain.trainer.run.owner import OWNER
from tests.cli import Ended
from tests.file_faults.faults import Fault, FileFaults
from tests.file_faults.runs import CONFIG, one_line, stalls, with_error
from tests.file_faults.served import Server
from tests.trainer.prediction.test_run import sealed

pytestmark = pytest.mark.long
NUM_STEPS = 4
RUN, CHECKPOINTS = "*/runs/*", "*/checkpoints_of_*"
WRITTEN_AT_START = (
    Fault("write", f"{RUN}/.{OWNER}*"),
    Fault("rename", f"{RUN}/{OWNER}"),
    Fault("write", f"{CHECKPOINTS}/.{OWNER}*"),
    Fault("rename", f"{CHECKPOINTS}/{OWNER}"),
)
READ_AT_START = (
    Fault("open", "*/sealed.json"),
    Fault("read", "*/sealed.json"),
    Fault("open", f"{CHECKPOINTS}/{OWNER}"),
    Fault("read", f"{CHECKPOINTS}/{OWNER}"),
    Fault("read", f"{RUN}/{OWNER}"),
)
OF_THE_PLAN = (
    Fault("mkdir", "*/corpus/.train.best_fit-*"),
    Fault("open", "*/corpus/.train.best_fit-*/plan/pieces"),
    Fault("write", "*/corpus/.train.best_fit-*/plan/*"),
    Fault("rename", "*/corpus/train.best_fit-*"),
)
"""Faults of a plan in the folder of the corpus, which is then written elsewhere."""
COPY = Fault("write", f"{RUN}/.{PREDICTION_FILE}*")
"""A fault of the copy of the prediction that a start makes."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A folder with a config, its corpus, and a sealed prediction of its run."""
    folder = tmp_path_factory.mktemp("user")
    shutil.copytree(corpus, folder / "corpus")
    text = f"""
model: {{num_layers: 1, d_model: 32, num_heads: 2, d_ff: 64, seq_len: 32}}
data: {{path: {folder}/corpus, packing: best_fit}}
parallel: {{dp: 1}}
train: {{num_tokens: {NUM_STEPS * 4 * 32}, global_batch_size: 4, eval_samples: 4, eval_every: 0, checkpoint_every: 2,
         checkpoint_in_background: false, log_every: 1}}
sample: {{prompts: []}}
"""
    (folder / CONFIG).write_text(text, encoding="utf-8")
    sealed(configs.load(str(folder / CONFIG)), folder / "sealed.json")
    return folder


class NamedFiles:
    """Starts of a run whose config names other files."""

    def __init__(self, folder: Path, faults: FileFaults, server: Server) -> None:
        self._folder, self._faults, self._server = folder, faults, server

    def start(self, run: str, faults: Sequence[Fault] = (), stop_after: int = NUM_STEPS) -> Ended:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        rank = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        settings = [
            f"run_dir=runs/{run}",
            f"train.checkpoint_folder=checkpoints_of_{run}",
            "train.prediction=sealed.json",
            f"train.stop_after={stop_after}",
        ]
        with self._faults.having(faults):
            cache = {"XDG_CACHE_HOME": str(self._folder / "user_cache")}  # for plans, too
            return self._server.call("train", CONFIG, *settings, cwd=self._folder, **rank, **cache)

    def losses(self, run: str) -> list[tuple[int, float]]:
        records = read_metrics(self._folder / "runs" / run / METRICS_FILE)
        return [(record["step"], record["loss"]) for record in records if record["kind"] == "train"]


@pytest.fixture(scope="module")
def runs(folder: Path, file_faults: FileFaults, server: Server) -> NamedFiles:
    found = NamedFiles(folder, file_faults, server)
    assert found.start("calm").status == EXIT_DONE
    return found


def test_a_fault_of_a_file_that_a_config_names_asks_for_another_start_which_has_the_same_curve(
    runs: NamedFiles, folder: Path
) -> None:
    for fault in WRITTEN_AT_START:
        ended = runs.start("x", with_error([fault], errno.EIO))
        assert (ended.status, "Input/output error" in one_line(ended)) == (EXIT_RESUME, True), (fault, ended.err)
        assert not [*folder.rglob(f".{OWNER}*")], "half of a file is left"
    full = runs.start("x", with_error([Fault("write", f"{CHECKPOINTS}/.{OWNER}*")], errno.ENOSPC))
    assert (full.status, "No space left on device" in one_line(full)) == (EXIT_FAILED, True), full.err
    assert runs.start("x", stop_after=2).status == EXIT_DONE
    for fault in READ_AT_START:
        for error in (errno.EIO, errno.ESTALE):
            ended = runs.start("x", with_error([fault], error))
            assert ended.status == EXIT_RESUME, (fault, ended.err)
            one_line(ended)
    owners = [json.loads((folder / name / OWNER).read_text()) for name in ("runs/x", "checkpoints_of_x")]
    assert owners[0] == owners[1], "the folder of the checkpoints is that of the run"
    assert runs.start("x").status == EXIT_DONE
    assert runs.losses("x") == runs.losses("calm")


def test_a_copy_of_the_prediction_that_cannot_be_written_ends_the_start_and_the_next_one_writes_it(
    runs: NamedFiles, folder: Path
) -> None:
    ended = runs.start("y", with_error([COPY], errno.EIO))
    assert ended.status != EXIT_DONE and "Traceback" not in ended.err, ended.err
    assert runs.start("y").status == EXIT_DONE
    assert (folder / "runs/y" / PREDICTION_FILE).read_bytes() == (folder / "sealed.json").read_bytes()
    assert runs.losses("y") == runs.losses("calm")


def test_a_plan_that_cannot_be_written_beside_the_corpus_is_written_elsewhere(runs: NamedFiles, folder: Path) -> None:
    for number, fault in enumerate(OF_THE_PLAN):
        for plan in folder.rglob("train.best_fit-*"):
            shutil.rmtree(plan)
        run = f"plan_{number}"
        assert runs.start(run, with_error([fault], (errno.EIO, errno.ENOSPC)[number % 2])).status == EXIT_DONE
        assert runs.losses(run) == runs.losses("calm")


def test_a_run_waits_for_the_files_that_its_config_names_if_they_stall(runs: NamedFiles, folder: Path) -> None:
    for plan in folder.rglob("train.best_fit-*"):
        shutil.rmtree(plan)
    ended = runs.start("z", stalls([*WRITTEN_AT_START, COPY, *OF_THE_PLAN]), stop_after=2)
    assert (ended.status, "error" in ended.err) == (EXIT_DONE, False), ended.err
    ended = runs.start("z", stalls(READ_AT_START))
    assert (ended.status, ended.err) == (EXIT_DONE, "")
    assert runs.losses("z") == runs.losses("calm")
