"""A run of which one rank stops ends with a report that names the rank, and what it never entered.

A case waits most of its time until a hang is certain, so some run at a time.
"""

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from foretrain.configs.schema import Config, ParallelConfig
from foretrain.launcher.local.run import RankError
from foretrain.parallel.layout import Layout
from foretrain.trainer.metrics import METRICS_FILE, read_metrics
from foretrain.trainer.run.exit_status import EXIT_HANG
from foretrain.trainer.run.folder import HANGS
from foretrain.trainer.run.rank import train_rank
from foretrain.trainer.run.setup import prepare_run
from foretrain.trainer.watch.reports import RankReport, file_name
from tests.conftest import RunOnRanks
from tests.overlapped import Overlapped, Work, selected
from tests.trainer import test_resume
from tests.trainer.watch.stopping import (
    PRINTED,
    STOPPED,
    STOPS_AT,
    train_and_block,
    train_and_load_slowly,
    train_and_starve,
    train_and_stop,
    train_and_stop_in_load,
)


@dataclass(frozen=True)
class Case:
    """Ranks that stop."""

    layout: str
    stops: Mapping[int, str]
    """The ranks and their places."""
    operations: Mapping[int, Sequence[str]]
    """All that the report says each of them never entered. "{next}" is the number of the collective of its group that
    follows on the last that the rank entered, and "{later}" that of the one after it."""


def one(layout: str, rank: int, place: str, *operations: str) -> Case:
    return Case(layout, {rank: place}, {rank: operations})


def exchanged(what: str, source: int, source_rank: int, destination: int, destination_rank: int) -> str:
    return (
        f"the exchange of the {what} from pipeline stage {source} (rank {source_rank}) to stage {destination} "
        f"(rank {destination_rank})"
    )


REDUCED = "all_reduce number {next} of the data-parallel group (ranks 0-1)"  # gloo scatters what it has reduced
GATHERED = "all_gather number {next} of the data-parallel group (ranks 0-1)"
AGREED = "all_reduce number {next} of the group of all ranks (ranks 0-1)"
FIRST_ACTIVATIONS = exchanged("activations of micro-batch 0", 0, 0, 1, 1)
# 1F1B starts both together, and waits for both.
IN_TURN = exchanged("activations of micro-batch 1", 0, 0, 1, 1), exchanged("gradients of micro-batch 0", 1, 1, 0, 0)
CASES = (
    one("dp=2", 1, "gradient reduction", REDUCED),
    one("dp=2", 0, "weight gathering", GATHERED, AGREED),  # the host waits in the second one
    one("dp=2 zero 0", 1, "gradient sum", REDUCED),
    # Two micro-batches are reduced at a time.
    one("dp=2 zero 2", 1, "gradient reduction", REDUCED, REDUCED.replace("next", "later")),
    one("dp=2 zero 3", 1, "gathering by DeepSpeed", GATHERED),
    one("dp=2 zero 3", 0, "reduction by DeepSpeed", REDUCED),
    one(
        "tp=2 dp=2",
        3,
        "tensor-parallel sum",
        "all_reduce number {next} of the data-parallel group (ranks 1, 3)",
        "all_reduce number {next} of the tensor-parallel group (ranks 2-3)",
    ),
    Case(
        "tp=2 dp=2 sp",
        {1: "gathering of the sequence", 3: "scattering of the sequence"},
        {
            1: ["all_gather number {next} of the tensor-parallel group (ranks 0-1)"],
            3: ["all_reduce number {next} of the tensor-parallel group (ranks 2-3)"],
        },
    ),
    one("cp=2", 1, "exchange of heads", "all_to_all number {next} of the context-parallel group (ranks 0-1)"),
    one("pp=2", 0, "sending activations", FIRST_ACTIVATIONS),
    one("pp=2", 1, "asking for activations", FIRST_ACTIVATIONS),
    one("pp=2", 1, "sending gradients", *IN_TURN),
    one("pp=2", 0, "asking for gradients", *IN_TURN),
    one("pp=2", 1, "sum of tied embeddings", "all_reduce number {next} of the group of tied embeddings (ranks 0-1)"),
    Case(
        "pp=2 vpp=2 dp=2",
        {2: "sending activations of stage 1", 1: "sending gradients of stage 2"},
        {
            2: [exchanged("activations of micro-batch 0", 1, 2, 2, 0)],
            1: [exchanged("gradients of micro-batch 0", 2, 1, 1, 3)],
        },
    ),
    Case(
        "pp=2 zbv dp=2",
        {0: "asking for gradients", 1: "sending shapes"},
        {
            0: [exchanged("activations of micro-batch 3", 0, 0, 1, 2)],  # it would send them next
            1: [exchanged("shapes of activations", 0, 1, 1, 3)],
        },
    ),
    one("tp=2", 0, "batch sharing", "broadcast number {next} of the group that shares batches (ranks 0-1)"),
    one("dp=2", 1, "agreement on a stop", AGREED),
    one("dp=2", 0, "consistency check", AGREED),
    one("dp=2", 1, "evaluation", AGREED),
    one("dp=2", 0, "checkpoint", AGREED),
)
LAYOUTS = {
    "dp=2": ParallelConfig(dp=2),
    "dp=2 zero 0": ParallelConfig(dp=2, zero_stage=0),
    "dp=2 zero 2": ParallelConfig(dp=2, zero_stage=2),
    "dp=2 zero 3": ParallelConfig(dp=2, zero_stage=3),
    "tp=2": ParallelConfig(tp=2),
    "tp=2 dp=2": ParallelConfig(tp=2, dp=2),
    "tp=2 dp=2 sp": ParallelConfig(tp=2, dp=2, sp=True),
    "cp=2": ParallelConfig(cp=2),
    "pp=2": ParallelConfig(pp=2),
    "pp=2 vpp=2 dp=2": ParallelConfig(pp=2, vpp=2, dp=2, schedule="interleaved_1f1b"),
    "pp=2 zbv dp=2": ParallelConfig(pp=2, vpp=2, dp=2, schedule="zbv"),
}
HANG_S = 4.0
BETWEEN_STEPS = ("agreement on a stop", "consistency check", "evaluation", "checkpoint", "weight gathering")
"""Places in what comes between steps, which may take ten times as long."""


def config(run_dir: Path, corpus: Path, layout: str, **train: Any) -> Config:
    found = test_resume.config(run_dir, corpus, LAYOUTS[layout], num_tokens=4 * STOPS_AT * 8 * 32, **train)
    found.parallel.hang_s = HANG_S
    if found.parallel.vpp > 1:
        found.model.num_layers, found.train.micro_batch_size = 4, 1
    if found.parallel.zero_stage == 3:  # DeepSpeed keeps smaller matrices on every replica
        found.model.d_model, found.model.d_ff = 256, 512
    return found


def report_of(run_dir: Path) -> str:
    (path,) = run_dir.glob(f"{HANGS}/*/report.txt")
    return path.read_text()


def never_entered(report: str) -> dict[int, list[str]]:
    """What the report says that each rank that gives no sign of life never entered."""
    blocks = re.findall(r"^rank (\d+) on .* gives no sign of life.*\n((?:  It .*\n)*)", report, re.MULTILINE)
    pattern = r"  It never entered, or did not finish, (.*): ranks? [\d, -]+ waits? in it\n"
    return {int(rank): re.findall(pattern, lines) for rank, lines in blocks}


def next_numbers(record: RankReport, operation: str) -> dict[str, int]:
    """The numbers of the next collectives of the group of an operation, after what a rank had entered."""
    label = operation.partition(" of the ")[2].partition(" (")[0]
    names = [name for name, group in record.groups.items() if group.label == label]
    last = max((each.number for each in record.collectives if each.group in names), default=0)
    return {"next": last + 1, "later": last + 2}


NAMED = {f"{case.layout}, {', '.join(case.stops.values())}": case for case in CASES}
QUICK, *LONG = NAMED
STUCK, LATE = "stuck in Python", "late data"
NUM_AT_ONCE = 4
"""Cases that run at a time: ranks of a case compute for a few seconds, and wait for many."""


def settings(case: str, run_dir: Path, corpus: Path) -> Config:
    """The config of a case of NAMED, or of STUCK or LATE."""
    if case not in NAMED:
        return config(run_dir, corpus, "dp=2")
    is_between = not {*NAMED[case].stops.values()}.isdisjoint(BETWEEN_STEPS)
    every = {"eval_every": STOPS_AT if is_between else STOPS_AT - 1, "check_every": STOPS_AT}
    found = config(run_dir, corpus, NAMED[case].layout, checkpoint_every=STOPS_AT, **every)
    found.parallel.hang_s = HANG_S / (2 if is_between else 1)
    return found


@dataclass(frozen=True)
class Runs:
    """The runs of all cases of which a test is going to run."""

    folder: Path
    wait: Overlapped

    def __call__(self, case: str) -> Path:
        """Wait until the run of a case has ended, and return its folder. Raises RankError if it failed."""
        self.wait(case)
        return self.folder / case

    def hung(self, case: str) -> Path:
        """Wait until the run of a case has ended because of a hang, and return its folder."""
        with pytest.raises(RankError, match=f"exited with status {EXIT_HANG}"):
            self.wait(case)
        return self.folder / case


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("hangs")

    def work(case: str) -> Work:
        (folder / case).mkdir()
        run = prepare_run(settings(case, folder / case, corpus))
        if case == STUCK:
            return 2, train_and_block, (run, 1)
        if case == LATE:
            return 2, train_and_starve, (run, 1, 6 * HANG_S)
        return run.layout.world_size, train_and_stop, (run, NAMED[case].stops)

    with closing(Overlapped(selected(request, "case"), work, NUM_AT_ONCE)) as wait:
        yield Runs(folder, wait)


@pytest.mark.parametrize("case", [QUICK, *(pytest.param(case, marks=pytest.mark.long) for case in LONG)])
def test_a_rank_that_is_stopped_in_any_operation_is_named_with_the_operation(case: str, runs: Runs) -> None:
    run_dir, stops = runs.hung(case), NAMED[case].stops
    report = report_of(run_dir)
    records = {rank: RankReport.read(run_dir / STOPPED / file_name(rank)) for rank in stops}
    expected = {
        rank: [each.format(**next_numbers(records[rank], each)) for each in operations]
        for rank, operations in NAMED[case].operations.items()
    }
    assert never_entered(report) == expected, report
    for rank in {*range(Layout.from_config(LAYOUTS[NAMED[case].layout]).world_size)} - {*stops}:
        (path,) = run_dir.glob(f"{HANGS}/*/{file_name(rank)}")
        assert any("in train_rank" in call for call in json.loads(path.read_text())["stacks"]["MainThread"])


@pytest.mark.long
@pytest.mark.parametrize("case", [STUCK])
def test_a_rank_that_is_stuck_in_python_is_named_with_where_it_is(case: str, runs: Runs) -> None:
    report = report_of(runs.hung(case))
    assert re.search(r"rank 1 on .* is alive, and waits for no other rank\n  It never entered all_reduce", report)
    assert re.search(r"rank\(s\) 1:\n(    .*\n)*    .* in block: never.wait\(\)\n", report)


@pytest.mark.long
@pytest.mark.parametrize("case", [LATE])
def test_a_run_whose_data_are_late_names_the_rank_that_waits_for_them_and_continues(case: str, runs: Runs) -> None:
    run_dir = runs(case)
    said = (run_dir / PRINTED).read_text()
    assert re.search(rf"step {STOPS_AT} is slow: .* wait for rank 1 on .*, and that one for its data", said)
    assert not [*run_dir.glob(f"{HANGS}/*/*")]
    steps = [record["step"] for record in read_metrics(run_dir / METRICS_FILE) if record["kind"] == "train"]
    assert steps == [*range(1, 4 * STOPS_AT + 1)]


@pytest.mark.long
def test_a_rank_that_hangs_while_it_reads_a_checkpoint_is_named_and_a_slow_one_is_waited_for(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks, capfd: pytest.CaptureFixture[str]
) -> None:
    first = prepare_run(config(tmp_path, corpus, "dp=2", stop_after=STOPS_AT - 1))
    ranks(2, train_rank, first)
    run = prepare_run(config(tmp_path, corpus, "dp=2"))
    run.config.parallel.hang_s = 3.0  # a load may take five times as long, as a first step
    with pytest.raises(RankError, match=f"exited with status {EXIT_HANG}"):
        ranks(2, train_and_stop_in_load, run, 1)
    report = report_of(tmp_path)
    assert report.startswith(f"step {STOPS_AT - 1} hangs: the load of the checkpoint has taken")
    assert list(never_entered(report)) == [1]
    shutil.rmtree(tmp_path / HANGS)
    capfd.readouterr()
    ranks(2, train_and_load_slowly, run, 1, 24.0)
    said = capfd.readouterr().err
    assert re.search("is slow: the load of the checkpoint .* wait for rank 1 on .*, and that one for its data", said)
    assert not [*tmp_path.glob(f"{HANGS}/*/*")]
    assert max(record["step"] for record in read_metrics(tmp_path / METRICS_FILE)) == 4 * STOPS_AT
