"""Steps that are not sound: the run ends, skips them, or goes back; a run that was stopped or killed does the same."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foretrain.configs.data import DataConfig
from foretrain.configs.optimization import ObjectiveConfig, OptimizerConfig, ScheduleConfig
from foretrain.configs.schema import Config, ModelConfig, ParallelConfig, TrainConfig
from foretrain.launcher.local.run import RankError
from foretrain.parallel.engine import Engine
from foretrain.trainer.anomalies.rollbacks import Rollback, read_rollbacks, write_rollbacks
from foretrain.trainer.checkpoint.record import CheckpointRecord
from foretrain.trainer.metrics import METRICS_FILE, is_time, read_metrics
from foretrain.trainer.run.folder import CHECKPOINTS, newest_checkpoint
from foretrain.trainer.run.rank import train_rank
from foretrain.trainer.run.setup import prepare_run
from tests.conftest import RunOnRanks
from tests.plugins.planted import LARGE_GRADIENT, NAN, WRONG_TARGETS
from tests.trainer.steps import before_each_step

long = pytest.mark.long
BATCH, SEQ_LEN = 4, 32
LAYOUTS = {
    "one process": ParallelConfig(dp=1),
    "dp=2": ParallelConfig(dp=2),
    "dp=2 zero 3": ParallelConfig(dp=2, zero_stage=3),
    "tp=2 pp=2": ParallelConfig(dp=1, tp=2, pp=2),
}


def config(
    run_dir: Path, corpus: Path, num_steps: int, parallel: ParallelConfig = LAYOUTS["one process"], **train: Any
) -> Config:
    return Config(
        run_dir=str(run_dir),
        plugins=["tests.plugins.planted"],
        model=ModelConfig(num_layers=2, d_model=32, num_heads=2, d_ff=64, seq_len=SEQ_LEN),
        data=DataConfig(path=str(corpus)),
        parallel=parallel,
        optimizer=OptimizerConfig(lr=1e-2),
        objective=ObjectiveConfig("planted"),
        schedule=ScheduleConfig(warmup_tokens=128),
        train=TrainConfig(
            **{
                "num_tokens": num_steps * BATCH * SEQ_LEN,
                "global_batch_size": BATCH,
                "eval_samples": 0,
                "sinks": [],
                **train,
            }
        ),
    )


def planted(config: Config, step: int, fault: float, num_samples: int = 1) -> Config:
    """The config, with a fault in the last samples of a step, as these are numbered without a rollback."""
    end = step * BATCH
    options = {"first": float(end - num_samples), "end": float(end), "fault": fault}
    return replace(config, objective=ObjectiveConfig("planted", options))


def train(ranks: RunOnRanks, config: Config) -> list[dict[str, Any]]:
    """Run `config` to its end, or to where it stops, and return its metrics without times, and without NaN."""
    run = prepare_run(config)
    ranks(run.layout.world_size, train_rank, run)
    return curve(config)


def curve(config: Config) -> list[dict[str, Any]]:
    records = read_metrics(Path(config.run_dir) / METRICS_FILE)
    return [
        {name: str(value) if value != value else value for name, value in record.items() if not is_time(name)}
        for record in records
    ]


def of_kind(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record for record in records if record["kind"] == kind]


def die_before(run: Any, number: int) -> None:
    """Train, but be killed before this training step, counted from 1 as they are taken."""

    def kill(engine: Engine, taken: int) -> None:
        if taken == number:
            os.kill(os.getpid(), signal.SIGKILL)

    before_each_step(kill)
    train_rank(run)


def test_a_run_ends_at_a_step_that_is_not_finite(tmp_path: Path, corpus: Path, ranks: RunOnRanks) -> None:
    with pytest.raises(RankError, match=r"(?s)step 3: loss nan, gradient norm nan.*train\.on_non_finite=skip"):
        train(ranks, planted(config(tmp_path, corpus, 6), 3, NAN))
    steps = of_kind(curve(config(tmp_path, corpus, 6)), "train")
    assert [step["step"] for step in steps] == [1, 2, 3]


@pytest.mark.parametrize(
    "layout", ["one process", "dp=2", *(pytest.param(each, marks=long) for each in list(LAYOUTS)[2:])]
)
def test_a_run_skips_steps_that_are_not_finite_and_resumes_bitwise(
    layout: str, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    def skipping(name: str, **options: Any) -> Config:
        return planted(config(tmp_path / name, corpus, 6, LAYOUTS[layout], on_non_finite="skip", **options), 3, NAN)

    full = train(ranks, skipping("full"))
    assert [step["step"] for step in of_kind(full, "train")] == [1, 2, 3, 4, 5, 6]
    assert [step["step"] for step in of_kind(full, "train") if "skipped" in step] == [3]
    (event,) = of_kind(full, "skipped")
    assert (event["step"], event["cause"], event["first_sample"], event["last_sample"]) == (3, "non_finite", 8, 11)
    train(ranks, skipping("parts", stop_after=4))
    assert CheckpointRecord.read(newest_checkpoint(tmp_path / "parts")).num_updates == 3
    assert train(ranks, skipping("parts")) == full


def test_a_run_ends_after_too_many_skips_in_a_row(tmp_path: Path, corpus: Path, ranks: RunOnRanks) -> None:
    limited = config(tmp_path, corpus, 6, on_non_finite="skip", max_skips=1)
    with pytest.raises(RankError, match=r"(?s)step 4: 2 steps in a row were skipped, more than train\.max_skips = 1"):
        train(ranks, planted(limited, 4, NAN, num_samples=2 * BATCH))


@pytest.mark.parametrize(
    "layout", ["one process", *(pytest.param(each, marks=long) for each in ("dp=2", "dp=2 zero 3", "tp=2 pp=2"))]
)
def test_a_run_goes_back_and_continues_as_one_that_never_had_the_samples(
    layout: str, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    def returning(name: str, **options: Any) -> Config:
        settings = {"checkpoint_every": 2, "on_non_finite": "rollback", **options}
        return config(tmp_path / name, corpus, 8, LAYOUTS[layout], **settings)

    back = train(ranks, planted(returning("back"), 6, NAN))
    (rollback,) = read_rollbacks(tmp_path / "back")
    assert rollback == Rollback(step=6, to_step=4, first_sample=16, end_sample=24, reason=rollback.reason)
    assert rollback.reason.startswith("loss nan, gradient norm ")  # DeepSpeed's is infinite
    (event,) = of_kind(back, "rollback")
    assert (event["step"], event["from_step"], event["first_sample"], event["end_sample"]) == (4, 6, 16, 24)
    assert [step["step"] for step in of_kind(back, "train")] == list(range(1, 9))
    last = of_kind(back, "train")[-1]
    num_samples = prepare_run(returning("new")).data.train.sources[0].samples.num_samples
    assert (last["samples"], last["epochs"]) == (8 * BATCH, 8 * BATCH / num_samples)

    train(ranks, returning("never", stop_after=4))
    write_rollbacks(tmp_path / "never", [rollback])
    never = train(ranks, returning("never"))
    assert of_kind(never, "train") == of_kind(back, "train")
    for name in ("back", "never"):
        record = CheckpointRecord.read(newest_checkpoint(tmp_path / name))
        assert (record.samples_consumed, record.left_out) == (8 * BATCH, ((16, 24),))
    branch = config(tmp_path / "branch", corpus, 12, LAYOUTS[layout], branch_from=str(tmp_path / "back"))
    assert prepare_run(branch).left_out.ranges == ((16, 24),)


@pytest.mark.parametrize(("taken", "stop_after"), [(8, None), pytest.param(5, 5, marks=long)])
def test_killed_or_stopped_around_a_rollback_the_curve_is_bitwise_the_same(
    taken: int, stop_after: int | None, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    def returning(name: str, **options: Any) -> Config:
        settings = {"checkpoint_every": 2, "on_non_finite": "rollback", "checkpoint_in_background": False, **options}
        return planted(config(tmp_path / name, corpus, 9, **settings), 6, NAN)

    full = train(ranks, returning("full"))
    if stop_after is not None:  # then the newest checkpoint is not the one to go back to
        train(ranks, returning("parts", stop_after=stop_after))
    else:  # after the rollback, and before the checkpoint after it
        with pytest.raises(RankError, match="killed by SIGKILL"):
            ranks(1, die_before, prepare_run(returning("parts")), taken)
        assert len(read_rollbacks(tmp_path / "parts")) == 1
        assert prepare_run(returning("parts")).start_step == 4
    assert of_kind(train(ranks, returning("parts")), "train") == of_kind(full, "train")
    assert of_kind(curve(returning("parts")), "rollback") == of_kind(full, "rollback")


def test_a_rollback_to_a_damaged_checkpoint_goes_to_the_one_before_and_removes_no_sound_one(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    def returning(**options: Any) -> Config:
        settings = {"checkpoint_every": 2, "keep_checkpoints": 0, "on_non_finite": "rollback", **options}
        return planted(config(tmp_path, corpus, 9, **settings), 8, NAN)

    train(ranks, returning(stop_after=7))  # from whose checkpoint the run resumes, and does not read the one before
    damaged = tmp_path / CHECKPOINTS / "step-00000006" / "__0_0.distcp"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    records = train(ranks, returning())
    assert [each.to_step for each in read_rollbacks(tmp_path)] == [4]
    assert [step["step"] for step in of_kind(records, "train")] == list(range(1, 10))
    kept = {path.name for path in (tmp_path / CHECKPOINTS).iterdir()}
    assert {"damaged-step-00000006", "step-00000002", "step-00000004"} <= kept


def test_a_rollback_whose_record_was_lost_by_a_kill_is_reported_by_the_next_start(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    def returning(**options: Any) -> Config:
        settings = {"checkpoint_every": 2, "on_non_finite": "rollback", **options}
        return planted(config(tmp_path, corpus, 8, **settings), 4, NAN)

    stopped = train(ranks, returning(stop_after=5))
    path = tmp_path / METRICS_FILE
    lines = [line for line in path.read_text().splitlines(keepends=True) if '"rollback"' not in line]
    path.write_text("".join(lines))
    assert of_kind(train(ranks, returning()), "rollback") == of_kind(stopped, "rollback") != []


def test_a_new_run_leaves_nothing_out_because_of_an_old_run_in_its_folder(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    write_rollbacks(tmp_path, [Rollback(step=2, to_step=0, first_sample=0, end_sample=2 * BATCH, reason="")])
    train(ranks, config(tmp_path, corpus, 2))
    assert read_rollbacks(tmp_path) == []
    assert not CheckpointRecord.read(newest_checkpoint(tmp_path)).left_out


def test_a_run_without_a_checkpoint_goes_back_to_its_start(tmp_path: Path, corpus: Path, ranks: RunOnRanks) -> None:
    back = train(ranks, planted(config(tmp_path, corpus, 4, on_non_finite="rollback"), 2, NAN))
    assert [each.to_step for each in read_rollbacks(tmp_path)] == [0]
    assert [step["step"] for step in of_kind(back, "train")] == [1, 2, 3, 4]
    assert len(of_kind(back, "rollback")) == 1


def test_a_run_ends_after_too_many_rollbacks_to_one_checkpoint(tmp_path: Path, corpus: Path, ranks: RunOnRanks) -> None:
    limited = config(tmp_path, corpus, 6, on_non_finite="rollback", max_rollbacks=2)
    with pytest.raises(RankError, match=r"(?s)step 1: .*checkpoint of step 0 as often as train\.max_rollbacks = 2"):
        train(ranks, planted(limited, 6, NAN, num_samples=6 * BATCH))
    assert [(each.first_sample, each.end_sample) for each in read_rollbacks(tmp_path)] == [(0, 4), (4, 8)]


@pytest.mark.parametrize("fault", [WRONG_TARGETS, pytest.param(LARGE_GRADIENT, marks=long)])
def test_a_spike_is_reported_and_trained_on_by_default(
    fault: float, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    records = train(ranks, planted(config(tmp_path, corpus, 130), 125, fault, num_samples=BATCH))
    assert [event["step"] for event in of_kind(records, "spike")] == [125]
    assert not [step for step in of_kind(records, "train") if "skipped" in step]


@long
@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_a_spike_is_left_out_and_a_resumed_run_decides_the_same(
    policy: str, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    def watched(name: str, **options: Any) -> Config:
        settings = {"on_spike": policy, "checkpoint_every": 60, **options}
        return planted(config(tmp_path / name, corpus, 130, LAYOUTS["dp=2"], **settings), 125, WRONG_TARGETS, BATCH)

    full = train(ranks, watched("full"))
    assert len(of_kind(full, "skipped" if policy == "skip" else "rollback")) == 1
    for stop in (70, 122, None):
        parts = train(ranks, watched("parts", stop_after=stop))
    assert parts == full
