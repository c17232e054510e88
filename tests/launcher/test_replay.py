"""Steps of a run that are taken again are those of its record, to the last bit, unless a machine computed wrongly."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from foretrain.configs import load as configs
from foretrain.configs.schema import Config
from foretrain.launcher.local.run import RankError
from foretrain.launcher.replay import plan
from foretrain.trainer.metrics import METRICS_FILE
from foretrain.trainer.run.folder import CONFIG_FILE
from foretrain.trainer.run.rank import train_rank
from foretrain.trainer.run.setup import prepare_run
from foretrain.trainer.sinks.comparison import difference
from tests.cli import Ended, assert_refused, called, end, start
from tests.conftest import RunOnRanks
from tests.launcher.replayed import train_with_a_wrong_sum
from tests.trainer import test_resume

EVERY, NUM_STEPS = 4, 12
WRONG_AT = 6


def config(run_dir: Path, corpus: Path, layout: str = "dp=2 zero 1", **train: Any) -> Config:
    settings = {"num_tokens": NUM_STEPS * 8 * 32, "checkpoint_every": EVERY, "keep_checkpoints": 3, **train}
    return test_resume.config(run_dir, corpus, test_resume.LAYOUTS[layout], **settings)


def trained(settings: Config, ranks: RunOnRanks, fn: Any = train_rank, *args: Any) -> Path:
    """The folder of a run that has ended."""
    run = prepare_run(settings)
    run.run_dir.mkdir(parents=True)
    configs.save(run.config, run.run_dir / CONFIG_FILE)
    ranks(run.layout.world_size, fn, run, *args)
    return run.run_dir


def content(folder: Path) -> dict[str, str]:
    """The sha256 of each file in a folder."""
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def replay(run_dir: Path, *arguments: str) -> Ended:
    """Run the command, with the folder beside the run as that of temporary files."""
    return end(start("replay", str(run_dir), *arguments, cwd=run_dir.parent, TMPDIR=str(run_dir.parent)))


@pytest.mark.parametrize(
    "layout",
    [
        "dp=2 zero 1",
        *(pytest.param(each, marks=pytest.mark.long) for each in ("one process", "dp=2 zero 3", "tp=2 pp=2 sp")),
    ],
)
def test_steps_of_a_sound_run_are_equal_to_the_last_bit_and_its_folder_is_not_changed(
    layout: str, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    run_dir = trained(config(tmp_path / "run", corpus, layout), ranks)
    before = content(tmp_path)
    again = replay(run_dir)
    assert (again.status, again.err) == (0, "")
    assert again.out.splitlines()[1:] == [
        *(f"step {step}: the same" for step in range(9, 13)),
        "steps 9 to 12: the loss and the gradient norm of all 4 steps are equal to the last bit",
    ]
    assert content(tmp_path) == before  # nothing is left in the folder for temporary files either


def test_a_sum_of_gradients_with_one_wrong_bit_is_found_by_a_replay_of_its_step(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    # Under ZeRO 1 this sum exists on one rank only, so that no comparison of ranks finds it.
    run_dir = trained(config(tmp_path / "run", corpus), ranks, train_with_a_wrong_sum, 1, WRONG_AT)
    again = replay(run_dir, "--after", "4", "--steps", "4")
    assert (again.status, again.err) == (1, "")
    *steps, verdict = again.out.splitlines()[1:]
    assert steps[:2] == ["step 5: the same", "step 6: the same"]
    assert all(f"step {number}: DIFFERS: " in line for number, line in zip((7, 8), steps[2:], strict=True))
    assert re.match(
        r"2 of 4 steps differ, by at most \S+ \(relative\); the first is step 7\. This machine or that of", verdict
    )
    assert "step-00000004, and remove later checkpoints" in verdict


def test_a_run_whose_size_is_not_set_is_replayed_with_the_ranks_that_wrote_the_checkpoint(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    run_dir = trained(config(tmp_path / "run", corpus), ranks)
    planned = plan(run_dir, ["parallel.dp=null"], None, None)
    assert planned.num_ranks == 2
    assert plan(run_dir, [], None, None).num_ranks is None


@pytest.mark.long
def test_a_replay_that_ends_early_is_no_proof(tmp_path: Path, corpus: Path, ranks: RunOnRanks) -> None:
    settings = config(tmp_path / "run", corpus, "one process", callbacks=["log_hooks"])
    settings.train.keep_checkpoints = 0
    settings.plugins = ["tests.plugins.callbacks"]
    trained(settings, ranks)  # its callback stops at step 5
    ranks(1, train_rank, prepare_run(settings))
    again = replay(tmp_path / "run", "--after", "4", "--steps", "4")
    assert (again.status, again.err) == (2, "")
    assert again.out.splitlines()[1:] == [
        "step 5: the same",
        "the replay ended after 1 of 4 steps, and they do not differ",
    ]


@pytest.mark.long
def test_the_last_step_of_a_run_that_diverged_can_be_replayed(tmp_path: Path, corpus: Path, ranks: RunOnRanks) -> None:
    settings = config(tmp_path / "run", corpus, "one process")
    settings.optimizer.lr, settings.optimizer.clip_norm = 1e30, 0.0
    settings.schedule.warmup_tokens = 0
    settings.train.checkpoint_every = 1
    settings.train.on_spike = "ignore"
    with pytest.raises(RankError, match="training has diverged"):
        trained(settings, ranks)
    again = replay(tmp_path / "run")
    assert (again.status, again.err) == (0, "")
    assert again.out.splitlines()[-1].endswith("are equal to the last bit")


@pytest.mark.long
def test_a_replay_on_another_layout_is_equal_within_a_tolerance(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    run_dir = trained(config(tmp_path / "run", corpus), ranks)
    again = replay(run_dir, "parallel.dp=1", "--tolerance", "1e-5")
    assert (again.status, again.err) == (0, "")
    exact = replay(run_dir, "parallel.dp=1")
    assert exact.status == 1
    assert "Other settings (parallel.dp=1) may round differently: allow that with --tolerance 1e-05." in exact.out


def test_what_cannot_be_replayed_is_refused_with_what_to_do(tmp_path: Path, corpus: Path, ranks: RunOnRanks) -> None:
    def refused(run_dir: Path, *arguments: str) -> Ended:
        return called("replay", str(run_dir), *arguments, cwd=tmp_path)

    assert_refused(refused(tmp_path / "none"), "none has no metrics.jsonl: name the folder of a run")
    run_dir = trained(config(tmp_path / "run", corpus, "one process"), ranks)
    assert_refused(refused(run_dir, "--after", "5"), "there is no checkpoint of that step", "use 4, 8")
    assert_refused(refused(run_dir, "--steps", "9"), "has 4 steps after step 8, and then lacks step 13: use --steps 4")
    assert_refused(refused(run_dir, "optimizer.lr=1"), "cannot be resumed, because these change the curve", num_lines=3)
    metrics = run_dir / METRICS_FILE
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(line for line in lines if '"step": 10,' not in line))
    assert_refused(refused(run_dir), "has 1 steps after step 8, and then lacks step 10")
    metrics.write_text("".join(lines))
    metrics.write_text("".join(f"{line}\n" for line in metrics.read_text().splitlines() if '"step": 1,' in line))
    assert_refused(refused(run_dir), "has no checkpoint with a recorded step after it", "train.keep_checkpoints")


def test_steps_are_compared_by_their_bits_or_within_a_tolerance() -> None:
    recorded = json.loads(json.dumps({"loss": 1.0 / 3, "grad_norm": 2.0 / 3}))
    assert difference(recorded, {"loss": 1.0 / 3, "grad_norm": 2.0 / 3}) == ""
    close = {"loss": 1.0 / 3 + 2**-54, "grad_norm": 2.0 / 3}
    assert difference(recorded, close).startswith("loss 0.33333333333333337, recorded 0.3333333333333333")
    assert difference(recorded, close, 1e-9) == ""
    nan = {"loss": float("nan"), "grad_norm": 2.0 / 3}
    assert difference(nan, nan) == ""
    assert difference(recorded, nan, 1.0).startswith("loss nan")
    assert difference(recorded, {**recorded, "skipped": 1.0}) == "skipped, and not in the record"
