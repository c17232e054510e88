"""A run of which one rank stops ends with a report that names the rank, and what it never entered."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from foretrain.configs.schema import Config, ParallelConfig
from foretrain.launcher.local.run import RankError
from foretrain.trainer.metrics import METRICS_FILE, read_metrics
from foretrain.trainer.run.exit_status import EXIT_HANG
from foretrain.trainer.run.folder import HANGS
from foretrain.trainer.run.setup import prepare_run
from tests.conftest import RunOnRanks
from tests.trainer import test_resume
from tests.trainer.watch.stopping import STOPS_AT, train_and_block, train_and_starve, train_and_stop

ACTIVATIONS = r"the exchange of the activations of micro-batch \d from pipeline stage 0 to stage 1"
GRADIENTS = r"the exchange of the gradients of micro-batch 0 from pipeline stage 1 to stage 0"
CASES: dict[str, tuple[str, int, str]] = {
    # gloo reduces with all_reduce, and keeps a rank's part
    "gradient reduction": ("dp=2", 1, r"all_reduce number \d+ of the data-parallel group \(ranks 0-1\)"),
    "weight gathering": ("dp=2", 0, r"\w+ number \d+ of the data-parallel group \(ranks 0-1\)"),
    "gradient sum": ("dp=2 zero 0", 1, r"all_reduce number \d+ of the data-parallel group \(ranks 0-1\)"),
    "tensor-parallel sum": ("tp=2 dp=2", 3, r"all_reduce number \d+ of the tensor-parallel group \(ranks 2-3\)"),
    "exchange of heads": ("cp=2", 1, r"all_to_all number \d+ of the context-parallel group \(ranks 0-1\)"),
    "sending activations": ("pp=2", 0, ACTIVATIONS),
    "asking for activations": ("pp=2", 1, ACTIVATIONS),
    "sending gradients": ("pp=2", 1, GRADIENTS),
    "asking for gradients": ("pp=2", 0, f"({GRADIENTS}|{ACTIVATIONS})"),  # 1F1B starts both exchanges together
    "batch sharing": ("tp=2", 0, r"broadcast number \d+ of the group that shares batches \(ranks 0-1\)"),
    "agreement on a stop": ("dp=2", 1, r"all_reduce number \d+ of the group of all ranks \(ranks 0-1\)"),
    "consistency check": ("dp=2", 0, r"\w+ number \d+ of the .*\(ranks 0-1\)"),
    "evaluation": ("dp=2", 1, r"\w+ number \d+ of the .*\(ranks 0-1\)"),
    "checkpoint": ("dp=2", 0, r"\w+ number \d+ of the .*\(ranks 0-1\)"),
}
"""For each place where a rank stops: the layout, the rank, and what the report says that it never entered."""
LAYOUTS = {
    "dp=2": ParallelConfig(dp=2),
    "dp=2 zero 0": ParallelConfig(dp=2, zero_stage=0),
    "tp=2": ParallelConfig(tp=2),
    "tp=2 dp=2": ParallelConfig(tp=2, dp=2),
    "cp=2": ParallelConfig(cp=2),
    "pp=2": ParallelConfig(pp=2),
}
HANG_S = 4.0
BETWEEN_STEPS = ("agreement on a stop", "consistency check", "evaluation", "checkpoint", "weight gathering")
"""Places in what comes between steps, which may take ten times as long."""


def config(run_dir: Path, corpus: Path, layout: str, **train: Any) -> Config:
    found = test_resume.config(run_dir, corpus, LAYOUTS[layout], num_tokens=4 * STOPS_AT * 8 * 32, **train)
    found.parallel.hang_s = HANG_S
    return found


def report_of(run_dir: Path) -> str:
    (path,) = run_dir.glob(f"{HANGS}/*/report.txt")
    return path.read_text()


@pytest.mark.parametrize(
    "place", [pytest.param(place, marks=[] if place == "gradient reduction" else pytest.mark.long) for place in CASES]
)
def test_a_rank_that_is_stopped_in_any_operation_is_named_with_the_operation(
    place: str, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    layout, stopped, operation = CASES[place]
    every = {"eval_every": STOPS_AT, "check_every": STOPS_AT, "checkpoint_every": STOPS_AT}
    run = prepare_run(config(tmp_path, corpus, layout, **every))
    run.config.parallel.hang_s = HANG_S / (2 if place in BETWEEN_STEPS else 1)
    with pytest.raises(RankError, match=f"exited with status {EXIT_HANG}"):
        ranks(run.layout.world_size, train_and_stop, run, stopped, place)
    report = report_of(tmp_path)
    assert re.search(rf"rank {stopped} on .* gives no sign of life", report)
    assert re.search(f"It never entered, or did not finish, {operation}", report), report
    for rank in {*range(run.layout.world_size)} - {stopped}:
        (path,) = tmp_path.glob(f"{HANGS}/*/rank-{rank:05}.json")
        assert any("in train_rank" in call for call in json.loads(path.read_text())["stacks"]["MainThread"])


@pytest.mark.long
def test_a_rank_that_is_stuck_in_python_is_named_with_where_it_is(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    with pytest.raises(RankError, match=f"exited with status {EXIT_HANG}"):
        ranks(2, train_and_block, prepare_run(config(tmp_path, corpus, "dp=2")), 1)
    report = report_of(tmp_path)
    assert re.search(r"rank 1 on .* is alive, and waits for no other rank\n  It never entered all_reduce", report)
    assert re.search(r"rank\(s\) 1:\n(    .*\n)*    .* in block: never.wait\(\)\n", report)


@pytest.mark.long
def test_a_run_whose_data_are_late_names_the_rank_that_waits_for_them_and_continues(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks, capfd: pytest.CaptureFixture[str]
) -> None:
    run = prepare_run(config(tmp_path, corpus, "dp=2"))
    ranks(2, train_and_starve, run, 1, 6 * HANG_S)
    said = capfd.readouterr().err
    assert re.search(rf"step {STOPS_AT} is slow: .* wait for rank 1 on .*, and that one for its data", said)
    assert not [*tmp_path.glob(f"{HANGS}/*/*")]
    steps = [record["step"] for record in read_metrics(tmp_path / METRICS_FILE) if record["kind"] == "train"]
    assert steps == [*range(1, run.total_steps + 1)]
