"""Evaluations of real runs: one held-out loss and error on every layout, and a number of samples that is kept."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foretrain.configs import load as configs
from foretrain.configs.data import DataConfig, SourceConfig
from foretrain.configs.schema import Config, ModelConfig, ParallelConfig, TrainConfig
from foretrain.data_pipeline.corpus.shards import open_corpus
from foretrain.data_pipeline.errors import CorpusError, UnreadableError
from foretrain.data_pipeline.prepare.build import prepare
from foretrain.data_pipeline.stream.held_out import held_out, num_windows
from foretrain.data_pipeline.stream.held_out import spread as spread_windows
from foretrain.parallel.groups import destroy_groups, init_groups
from foretrain.trainer import evaluation as evaluation_module
from foretrain.trainer.api import build_model
from foretrain.trainer.build import build_engine
from foretrain.trainer.callbacks.base import HeldOutLoss
from foretrain.trainer.checkpoint.record import CheckpointRecord
from foretrain.trainer.evaluation import Choice, Evaluation
from foretrain.trainer.metrics import METRICS_FILE, VAL_LOSS_ERROR, read_metrics
from foretrain.trainer.objectives.base import objective_of
from foretrain.trainer.run.folder import newest_checkpoint
from foretrain.trainer.run.rank import train_rank
from foretrain.trainer.run.setup import Run, prepare_run
from foretrain.trainer.standard_error import estimate
from tests.conftest import RunOnRanks
from tests.data_pipeline.samples import write_texts

SEQ_LEN, BATCH = 32, 8


def settings(run_dir: Path, data: DataConfig, parallel: ParallelConfig | None = None, **train: Any) -> Config:
    return Config(
        run_dir=str(run_dir),
        model=ModelConfig(num_layers=2, d_model=32, num_heads=2, d_ff=64, seq_len=SEQ_LEN, vocab_size=300),
        data=data,
        parallel=parallel or ParallelConfig(),
        train=TrainConfig(
            num_tokens=6 * BATCH * SEQ_LEN, global_batch_size=BATCH, micro_batch_size=2, **({"eval_every": 2} | train)
        ),
    )


Evaluations = tuple[list[tuple[HeldOutLoss, Choice | None]], int | None]


def evaluate(*runs: Run) -> list[Evaluations]:
    """Two evaluations of the initial model of each run, and the number of samples after them."""
    torch.set_num_threads(1)
    found: list[Evaluations] = []
    for run in runs:
        groups = init_groups(run.layout, "cpu", timeout_s=60.0)
        engine, _ = build_engine(run.config, groups)
        evaluation = Evaluation(run, groups, engine, objective_of(run.config)(run.config))
        found.append(([evaluation(), evaluation()], evaluation.num_samples))
    destroy_groups()  # once: the next groups would read the addresses of these
    return found


def expected_loss(corpus: Path, config: Config, num_samples: int, split: str = "val") -> tuple[float, float | None]:
    """The loss of the initial model and its standard error, in one process without the engine."""
    val = open_corpus(corpus, split)
    batch = held_out(val, SEQ_LEN, num_samples)
    assert batch.samples_B is not None
    # Documents by the number of ends before a window.
    documents = [int((val.read(0, SEQ_LEN * number) == val.eot_id).sum()) for number in batch.samples_B.tolist()]
    with torch.no_grad():
        logits_LBV = build_model(config)(torch.from_numpy(batch.tokens_BL)).float()
    losses = torch.nn.functional.cross_entropy(
        logits_LBV.flatten(0, 1), torch.from_numpy(batch.targets_BL.T.copy()).flatten(), reduction="none"
    )
    loss_N = losses.view(SEQ_LEN, -1).double().sum(0).numpy()
    found = estimate(loss_N, np.full(len(loss_N), SEQ_LEN), np.array(documents))
    return found.mean, found.standard_error


def test_losses_and_errors_are_those_of_plain_pytorch(tmp_path: Path, corpus: Path, ranks: RunOnRanks) -> None:
    run = prepare_run(settings(tmp_path, DataConfig(path=str(corpus)), eval_samples=BATCH + 3))
    mean, error = expected_loss(corpus, run.config, BATCH + 3)
    [[(evaluations, num_samples)]] = ranks(1, evaluate, run)
    (first, choice), (second, _) = evaluations
    assert first == second and choice is None and num_samples == BATCH + 3
    assert first.total == pytest.approx(mean, rel=1e-6)
    assert first.standard_error == pytest.approx(error, rel=1e-3)
    assert first.num_samples == BATCH + 3


def test_each_named_set_of_held_out_files_has_a_loss_of_its_own(tmp_path: Path, ranks: RunOnRanks) -> None:
    texts = write_texts(tmp_path / "texts", 24)
    sets = {"a": [texts / f"{number:03d}.txt" for number in range(8)], "b": [texts / "008.txt", texts / "009.txt"]}
    prepare([texts], tmp_path / "data", val_sets=sets, vocab_size=300)
    data = DataConfig(path=str(tmp_path / "data"))
    run = prepare_run(settings(tmp_path / "run", data, ParallelConfig(dp=2), eval_samples=BATCH + 3))
    [[(evaluations, _)], [(of_other_rank, _)]] = ranks(2, evaluate, run)
    (loss, _), (again, _) = evaluations
    assert loss == again and evaluations == of_other_rank
    assert loss.total == pytest.approx(expected_loss(tmp_path / "data", run.config, BATCH + 3)[0], rel=1e-6)
    for name in sets:
        mean, error = expected_loss(tmp_path / "data", run.config, BATCH + 3, f"val-{name}")
        assert loss.as_metrics[f"val_loss/{name}"] == pytest.approx(mean, rel=1e-6)
        assert loss.standard_error_by_source[name] == pytest.approx(error, rel=1e-3)
    assert loss.by_source["a"] != loss.by_source["b"]


def chosen(ranks: RunOnRanks, *configs_of_layouts: Config) -> list[tuple[HeldOutLoss, Choice | None]]:
    """The first evaluation of each, the same on every rank; the second one takes the same samples."""
    runs = [prepare_run(config) for config in configs_of_layouts]
    found = ranks(runs[0].layout.world_size, evaluate, *runs)
    assert all(each == found[0] for each in found)
    for evaluations, _ in found[0]:
        assert evaluations[1] == (evaluations[0][0], None)
    return [evaluations[0] for evaluations, _ in found[0]]


LAYOUTS = [ParallelConfig(dp=2), ParallelConfig(tp=2, sp=True), ParallelConfig(cp=2), ParallelConfig(pp=2)]
"""Each divides a batch, or what belongs to a sample, in its own way."""


@pytest.mark.long
def test_every_layout_chooses_the_same_samples_and_finds_the_same_losses(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    """Two sources of unequal weight, documents that attention does not cross, and a number of samples to be found."""
    sources = {"a": SourceConfig(str(corpus), 0.8), "b": SourceConfig(str(corpus), 0.2)}
    data = DataConfig(sources=sources, packing="documents")
    wanted: dict[str, Any] = {"eval_samples": 10, "eval_standard_error": 0.003}
    [(expected, choice)] = chosen(ranks, settings(tmp_path, data, **wanted))
    assert choice is not None and choice.is_reached and choice.num_samples > 10
    assert expected.standard_error is not None and expected.standard_error <= 0.003
    for loss, same_choice in chosen(ranks, *(settings(tmp_path, data, parallel, **wanted) for parallel in LAYOUTS)):
        assert same_choice is not None
        assert (same_choice.num_samples, loss.num_samples) == (choice.num_samples, expected.num_samples)
        ours, theirs = loss.as_metrics, expected.as_metrics
        assert ours.keys() == theirs.keys() and "val_loss_standard_error/b" in ours
        for name in ours:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3 if VAL_LOSS_ERROR in name else 1e-5)


def test_an_error_that_the_held_out_set_is_too_small_for_takes_all_of_it_and_says_so(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    data = DataConfig(path=str(corpus))
    windows = num_windows(open_corpus(corpus, "val"), SEQ_LEN)
    too_small, large = (settings(tmp_path, data, eval_samples=4, eval_standard_error=error) for error in (1e-9, 10.0))
    (loss, choice), (easy, easily) = chosen(ranks, too_small, large)
    assert choice is not None and not choice.is_reached and choice.num_samples == loss.num_samples == windows
    assert easily is not None and easily.is_reached and easily.num_samples == easy.num_samples == 4


def as_one_document(run: Run) -> list[Evaluations]:
    """`evaluate` of a held-out set that is one document."""
    evaluation_module.documents_of = lambda stream, seq_len, windows_N: 0 * windows_N
    return evaluate(run)


@pytest.mark.long
def test_of_one_document_all_windows_are_taken_and_no_error_is_claimed(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    data = DataConfig(path=str(corpus))
    run = prepare_run(settings(tmp_path, data, eval_samples=4, eval_standard_error=0.1))
    [[(evaluations, _)]] = ranks(1, as_one_document, run)
    windows = num_windows(open_corpus(corpus, "val"), SEQ_LEN)
    assert evaluations[0][1] == Choice(windows, None, is_reached=False)
    assert VAL_LOSS_ERROR not in evaluations[0][0].as_metrics


def records_of(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in read_metrics(run_dir / METRICS_FILE) if record["kind"] == kind]


@pytest.mark.long
def test_the_number_of_samples_is_recorded_and_kept_when_a_run_resumes_in_another_layout(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks, capfd: pytest.CaptureFixture[str]
) -> None:
    config = settings(tmp_path / "run", DataConfig(path=str(corpus)), eval_samples=4, eval_standard_error=1e-9)
    ranks(1, train_rank, prepare_run(replace(config, train=replace(config.train, stop_after=3))))
    (choice,) = records_of(tmp_path / "run", "eval_samples")
    checkpoint = newest_checkpoint(tmp_path / "run")
    state = CheckpointRecord.read(checkpoint).callbacks["evaluation"]
    assert state == {"standard_error": 1e-9, "num_samples": state["num_samples"]}
    assert state["num_samples"] >= choice["num_samples"] == num_windows(open_corpus(corpus, "val"), SEQ_LEN)
    ranks(2, train_rank, prepare_run(replace(config, parallel=ParallelConfig(pp=2))))
    evaluations = records_of(tmp_path / "run", "eval")
    assert [record["step"] for record in evaluations] == [2, 4, 6]
    assert {record["val_samples"] for record in evaluations} == {choice["num_samples"]}
    assert records_of(tmp_path / "run", "eval_samples") == [choice], "it is chosen once"
    out = capfd.readouterr().out
    assert out.count("train.eval_standard_error = 1e-09 needs a larger held-out set") == 1
    last = evaluations[-1]
    assert f"held-out loss {last['val_loss']:.4f} ± {last[VAL_LOSS_ERROR]:.4f}" in out
    assert f"± {last[VAL_LOSS_ERROR]:.4f} (standard error, {last['val_samples']} samples)" in out.replace("\n", " ")


def read_on_one_rank_alone(run: Run) -> str:
    """The error of this rank if rank 1 cannot read its samples."""
    groups = init_groups(run.layout, "cpu", timeout_s=60.0)
    engine, _ = build_engine(run.config, groups)
    evaluation = Evaluation(run, groups, engine, objective_of(run.config)(run.config))
    if groups.rank == 1:
        evaluation_module.HeldOutSamples = gone  # type: ignore[assignment,misc]
    try:
        evaluation.read()
    except CorpusError as error:
        return str(error)
    return ""


def gone(*arguments: object, **keywords: object) -> None:
    raise UnreadableError("val-000000.tar is gone", "val-000000.tar", 0)


@pytest.mark.long
def test_samples_that_one_rank_cannot_read_are_an_error_on_every_rank(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    run = prepare_run(settings(tmp_path, DataConfig(path=str(corpus)), ParallelConfig(dp=2)))
    assert ranks(2, read_on_one_rank_alone, run) == 2 * ["held-out samples cannot be read: val-000000.tar is gone"]


def with_first_windows(run: Run) -> list[Evaluations]:
    """`evaluate` with the bug that the first windows are taken."""
    evaluation_module.spread = lambda num_samples, windows: np.arange(min(num_samples, windows))
    return evaluate(run)


def test_an_evaluation_of_the_first_windows_would_be_noticed(tmp_path: Path, corpus: Path, ranks: RunOnRanks) -> None:
    run = prepare_run(settings(tmp_path, DataConfig(path=str(corpus)), eval_samples=BATCH + 3))
    mean, _ = expected_loss(corpus, run.config, BATCH + 3)
    [[(evaluations, _)]] = ranks(1, with_first_windows, run)
    assert evaluations[0][0].total != pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.eval_standard_error=0"], "eval_standard_error = 0.0 must be greater than 0"),
        (["train.eval_standard_error=-0.1"], "must be greater than 0"),
        (["train.eval_standard_error=inf"], "must be finite"),
        (["train.eval_standard_error=nan"], "must be"),
        (["train.eval_standard_error=0.01", "train.eval_samples=0"], "eval_samples = 0: set it to 2 or more"),
        (["train.eval_standard_error=0.01", "train.eval_samples=1"], "eval_samples = 1: set it to 2 or more"),
    ],
)
def test_an_error_that_cannot_be_asked_for_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configs.load("runs/dry_run", overrides)


def test_the_default_leaves_the_hash_of_a_config_and_spread_is_the_same_rule_everywhere() -> None:
    plain, asked = (configs.load("runs/dry_run", more) for more in ([], ["train.eval_standard_error=0.01"]))
    assert configs.config_hash(plain) != configs.config_hash(asked)
    assert spread_windows(3, 9).tolist() == [1, 4, 7]
