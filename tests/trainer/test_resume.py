"""A run that is interrupted and resumed has the curve of one that never stopped."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from foretrain.configs.data import DataConfig
from foretrain.configs.optimization import OptimizerConfig, ScheduleConfig
from foretrain.configs.parametrization import BaseConfig, MupConfig
from foretrain.configs.schema import Config, ModelConfig, ParallelConfig, TrainConfig
from foretrain.launcher.local.run import RankError
from foretrain.parallel.engine import Engine
from foretrain.trainer.metrics import METRICS_FILE, is_time, read_metrics
from foretrain.trainer.model import init
from foretrain.trainer.model.spec import Param
from foretrain.trainer.run.exit_status import EXIT_RESUME
from foretrain.trainer.run.folder import CHECKPOINTS
from foretrain.trainer.run.rank import train_rank
from foretrain.trainer.run.setup import prepare_run
from tests.conftest import RunOnRanks
from tests.trainer.steps import before_each_step

long = pytest.mark.long
NUM_STEPS = 7
LAYOUTS = {
    "one process": ParallelConfig(),
    "zero 0": ParallelConfig(zero_stage=0),
    "dp=2 zero 0": ParallelConfig(dp=2, zero_stage=0),
    "dp=2 zero 1": ParallelConfig(dp=2),
    "dp=2 zero 2": ParallelConfig(dp=2, zero_stage=2),
    "dp=2 zero 3": ParallelConfig(dp=2, zero_stage=3),
    "dp=2 zero 2 offload": ParallelConfig(dp=2, zero_stage=2, offload_optimizer=True),
    "dp=2 zero 3 offload": ParallelConfig(dp=2, zero_stage=3, offload_optimizer=True, offload_params=True),
    "cp=2": ParallelConfig(cp=2),
    "tp=2 pp=2 sp": ParallelConfig(tp=2, pp=2, sp=True),
}


def config(run_dir: Path, corpus: Path, parallel: ParallelConfig, **train: Any) -> Config:
    model = ModelConfig(num_layers=2, d_model=32, num_heads=2, d_ff=64, seq_len=32, tie_embeddings=True)
    return Config(
        run_dir=str(run_dir),
        model=model,
        data=DataConfig(path=str(corpus)),
        parallel=parallel,
        optimizer=OptimizerConfig(lr=3e-3),
        schedule=ScheduleConfig(warmup_tokens=256),
        train=TrainConfig(
            **{
                "num_tokens": NUM_STEPS * 8 * 32,
                "global_batch_size": 8,
                "micro_batch_size": 2,
                "eval_every": 2,
                "eval_samples": 11,
                **train,
            }
        ),
    )


def train(ranks: RunOnRanks, config: Config) -> list[dict[str, Any]]:
    """Run `config` to its end, or to where it stops, and return what the run's metrics say of every step."""
    run = prepare_run(config)
    ranks(run.layout.world_size, train_rank, run)
    return curve(run.run_dir)


def curve(run_dir: Path) -> list[dict[str, Any]]:
    records = read_metrics(run_dir / METRICS_FILE)
    return [{name: value for name, value in record.items() if not is_time(name)} for record in records]


Curves = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, corpus: Path, ranks: RunOnRanks) -> Curves:
    """The curve of a run that never stopped, with its train and eval records, by the name of a layout."""
    folder = tmp_path_factory.mktemp("full")

    @cache
    def curve_of(name: str) -> list[dict[str, Any]]:
        records = train(ranks, config(folder / name, corpus, LAYOUTS[name]))
        assert [r["step"] for r in records if r["kind"] == "train"] == list(range(1, NUM_STEPS + 1))
        assert [r["step"] for r in records if r["kind"] == "eval"] == [2, 4, 6, 7]
        return records

    return curve_of


@pytest.mark.parametrize("stop", [3, *(pytest.param(stop, marks=long) for stop in range(1, NUM_STEPS) if stop != 3)])
def test_stopped_at_any_step_the_curve_is_bitwise_the_same(
    stop: int, tmp_path: Path, corpus: Path, ranks: RunOnRanks, uninterrupted: Curves
) -> None:
    train(ranks, config(tmp_path, corpus, LAYOUTS["one process"], stop_after=stop))
    assert train(ranks, config(tmp_path, corpus, LAYOUTS["one process"])) == uninterrupted("one process")


@pytest.mark.parametrize("layout", ["tp=2 pp=2 sp", *(pytest.param(name, marks=long) for name in list(LAYOUTS)[1:-1])])
def test_stopped_twice_the_curve_is_bitwise_the_same_in_every_layout(
    layout: str, tmp_path: Path, corpus: Path, ranks: RunOnRanks, uninterrupted: Curves
) -> None:
    for stop in (2, 5, None):
        records = train(ranks, config(tmp_path, corpus, LAYOUTS[layout], stop_after=stop))
    assert records == uninterrupted(layout)


@long
def test_tied_ends_that_sum_in_different_orders_resume_bitwise(tmp_path: Path, corpus: Path, ranks: RunOnRanks) -> None:
    layout = ParallelConfig(dp=4, pp=2)
    full = train(ranks, config(tmp_path / "full", corpus, layout, micro_batch_size=1))
    train(ranks, config(tmp_path / "parts", corpus, layout, micro_batch_size=1, stop_after=3))
    assert train(ranks, config(tmp_path / "parts", corpus, layout, micro_batch_size=1)) == full


@long
def test_bf16_resumes_bitwise(tmp_path: Path, corpus: Path, ranks: RunOnRanks) -> None:
    layout = ParallelConfig(dp=2)
    full = train(ranks, config(tmp_path / "full", corpus, layout, precision="bf16"))
    train(ranks, config(tmp_path / "parts", corpus, layout, precision="bf16", stop_after=3))
    assert train(ranks, config(tmp_path / "parts", corpus, layout, precision="bf16")) == full


@long
def test_sgd_under_completep_resumes_bitwise_and_continues_in_another_layout(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    def scaled(run_dir: Path, layout: ParallelConfig, **train: Any) -> Config:
        mup = MupConfig(parametrization="completep", base=BaseConfig(d_model=16, num_layers=1))
        sgd = OptimizerConfig(kind="sgd", lr=0.1, weight_decay=0.01)
        return replace(config(run_dir, corpus, layout, **train), mup=mup, optimizer=sgd)

    zero, pipeline = ParallelConfig(dp=2, zero_stage=1), ParallelConfig(pp=2)
    full = train(ranks, scaled(tmp_path / "full", zero))
    for name in ("same", "other"):
        train(ranks, scaled(tmp_path / name, zero, stop_after=3))
    assert train(ranks, scaled(tmp_path / "same", zero)) == full
    other = train(ranks, scaled(tmp_path / "other", pipeline))
    losses = [[r["loss"] for r in records if r["kind"] == "train"] for records in (other, full)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def die(run: Any, at_step: int, rank: int, signum: int) -> None:
    """Train, but at one step send a signal to one rank."""

    def send(engine: Engine, number: int) -> None:
        if number == at_step and engine.groups.rank == rank:
            os.kill(os.getpid(), signum)

    before_each_step(send)
    train_rank(run)


def test_a_run_that_was_killed_resumes_from_the_newest_checkpoint(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks, uninterrupted: Curves
) -> None:
    layout = LAYOUTS["dp=2 zero 2"]
    # In the background, the checkpoint of step 4 might not be complete yet.
    run = prepare_run(config(tmp_path, corpus, layout, checkpoint_every=2, checkpoint_in_background=False))
    with pytest.raises(RankError, match="rank 1 was killed by SIGKILL"):
        ranks(2, die, run, 6, 1, signal.SIGKILL)
    assert sorted(path.name for path in (tmp_path / CHECKPOINTS).iterdir()) == ["step-00000002", "step-00000004"]
    assert prepare_run(config(tmp_path, corpus, layout)).start_step == 4
    assert train(ranks, config(tmp_path, corpus, layout)) == uninterrupted("dp=2 zero 2")


@pytest.mark.parametrize("signum", [signal.SIGTERM, pytest.param(signal.SIGUSR2, marks=long)])
def test_a_signal_on_one_rank_saves_on_all_and_exits_with_the_code_that_asks_for_a_restart(
    signum: int, tmp_path: Path, corpus: Path, ranks: RunOnRanks, uninterrupted: Curves
) -> None:
    layout = LAYOUTS["tp=2 pp=2 sp"]
    with pytest.raises(RankError, match=f"exited with status {EXIT_RESUME}"):
        ranks(4, die, prepare_run(config(tmp_path, corpus, layout)), 3, 2, signum)
    assert prepare_run(config(tmp_path, corpus, layout)).start_step == 3
    assert train(ranks, config(tmp_path, corpus, layout)) == uninterrupted("tp=2 pp=2 sp")


def warned_at_its_start(run: Any) -> None:
    """Train, having got a signal on rank 1 before the ranks have met."""
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)
    train_rank(run)


warned_at_its_start.on_start = train_rank.on_start  # type: ignore[attr-defined]


@long
def test_a_signal_before_the_first_step_saves_after_it(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks, uninterrupted: Curves
) -> None:
    layout = LAYOUTS["dp=2 zero 2"]
    with pytest.raises(RankError, match=f"exited with status {EXIT_RESUME}"):
        ranks(2, warned_at_its_start, prepare_run(config(tmp_path, corpus, layout)))
    assert prepare_run(config(tmp_path, corpus, layout)).start_step == 1
    assert train(ranks, config(tmp_path, corpus, layout)) == uninterrupted("dp=2 zero 2")


def one_looks_too_early(run: Any) -> None:
    """Train, but rank 1 has not seen the checkpoint."""
    train_rank(replace(run, resume=None) if os.environ["RANK"] == "1" else run)


def test_ranks_that_found_different_checkpoints_ask_to_be_started_again(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    layout = LAYOUTS["dp=2 zero 2"]
    train(ranks, config(tmp_path, corpus, layout, stop_after=2))
    with pytest.raises(RankError, match=f"exited with status {EXIT_RESUME}"):
        ranks(2, one_looks_too_early, prepare_run(config(tmp_path, corpus, layout)))
    assert prepare_run(config(tmp_path, corpus, layout)).start_step == 2


@pytest.mark.parametrize(
    ("first", "then"), [("tp=2 pp=2 sp", "dp=2 zero 3"), pytest.param("dp=2 zero 2", "tp=2 pp=2 sp", marks=long)]
)
def test_a_checkpoint_resumes_in_another_layout(
    first: str,
    then: str,
    tmp_path: Path,
    corpus: Path,
    ranks: RunOnRanks,
    uninterrupted: Curves,
) -> None:
    train(ranks, config(tmp_path, corpus, LAYOUTS[first], stop_after=4))
    records = train(ranks, config(tmp_path, corpus, LAYOUTS[then]))
    for record, expected in zip(records, uninterrupted("one process"), strict=True):
        assert record.pop("kind") == expected["kind"]
        assert record == pytest.approx({name: expected[name] for name in record}, rel=1e-5)


def draw_nothing(run: Any) -> None:
    """Train, but to draw an initial value is an error."""

    def fill(out: object, param: Param, *law: object) -> None:
        raise AssertionError(f"{param.name} is drawn")

    init.fill = fill  # type: ignore[assignment]
    train_rank(run)


def test_a_run_that_resumes_draws_no_initial_weights(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks, uninterrupted: Curves
) -> None:
    train(ranks, config(tmp_path, corpus, LAYOUTS["one process"], stop_after=6))
    ranks(1, draw_nothing, prepare_run(config(tmp_path, corpus, LAYOUTS["one process"])))
    assert curve(tmp_path) == uninterrupted("one process")
    with pytest.raises(RankError, match="is drawn"):
        ranks(1, draw_nothing, prepare_run(config(tmp_path / "new", corpus, LAYOUTS["one process"])))


def test_a_partial_checkpoint_is_not_seen(tmp_path: Path, corpus: Path) -> None:
    (tmp_path / CHECKPOINTS / "partial-step-00000003").mkdir(parents=True)
    assert prepare_run(config(tmp_path, corpus, ParallelConfig())).start_step == 0


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, corpus: Path, ranks: RunOnRanks) -> Config:
    """A run stopped after one step."""
    stopped = config(tmp_path_factory.mktemp("stopped"), corpus, ParallelConfig(), stop_after=1)
    train(ranks, stopped)
    return stopped


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("optimizer", "lr", 1e-3),
        ("model", "num_layers", 3),
        ("schedule", "kind", "linear"),
        ("train", "global_batch_size", 16),
        ("train", "seed", 1),
        ("train", "num_tokens", 10_000),
        ("data", "seed", 1),
    ],
)
def test_a_resume_with_a_setting_that_changes_the_curve_is_refused(
    section: str, name: str, value: object, stopped: Config
) -> None:
    changed = replace(stopped, **{section: replace(getattr(stopped, section), **{name: value})})
    with pytest.raises(ValueError, match=rf"(?s)cannot be resumed.*{section}\.{name}: .* -> {value}.*another run_dir"):
        prepare_run(changed)


def test_a_resume_on_other_tokens_is_refused(stopped: Config, tmp_path: Path) -> None:
    from foretrain.data_pipeline.prepare.build import prepare

    (tmp_path / "text.txt").write_text("other words " * 2000)
    (tmp_path / "more.txt").write_text("some more of them " * 200)
    prepare([tmp_path], tmp_path / "other", vocab_size=300)
    with pytest.raises(ValueError, match=r"the tokens of data.path are not those of the checkpoint"):
        prepare_run(replace(stopped, data=DataConfig(path=str(tmp_path / "other"))))


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [("train", "micro_batch_size", 4), ("parallel", "dp", 2), ("train", "log_every", 1), ("train", "stop_after", None)],
)
def test_a_resume_with_a_setting_that_leaves_the_curve_alone_is_taken(
    section: str, name: str, value: object, stopped: Config
) -> None:
    changed = replace(stopped, **{section: replace(getattr(stopped, section), **{name: value})})
    assert prepare_run(changed).start_step == 1
