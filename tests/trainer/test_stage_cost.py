"""Stages are balanced by what they cost, counted or measured, and the curve does not move."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from foretrain.configs.data import DataConfig
from foretrain.configs.schema import Config, ModelConfig, ParallelConfig, TrainConfig
from foretrain.launcher.local.run import run_local
from foretrain.parallel.layout import Layout, LayoutError
from foretrain.trainer.metrics import METRICS_FILE, read_metrics
from foretrain.trainer.model.table import block_table, flops_per_token
from foretrain.trainer.run.rank import train_rank
from foretrain.trainer.run.setup import Run, prepare_run
from foretrain.trainer.stages.cost import Costs, balance_stages, flop_costs
from foretrain.trainer.stages.timing import STAGES_FILE, local_model, measure_costs
from tests.conftest import RunOnRanks

MODEL = ModelConfig(num_layers=8, d_model=64, num_heads=4, d_ff=128, seq_len=32, vocab_size=300)
TRAIN = TrainConfig()
HEAD_HEAVY = replace(MODEL, vocab_size=1250)
"""A model whose head costs nearly as much as two blocks."""


def test_counted_costs_add_up_to_the_flops_of_the_model() -> None:
    costs = flop_costs(MODEL, TRAIN, Layout())
    assert costs.first + 8 * costs.block + costs.last == pytest.approx(flops_per_token(MODEL, causal=True))


def test_a_block_costs_its_matrices_and_its_attention() -> None:
    matrices = sum(param.num_elements for param in block_table(MODEL, 0) if param.is_matrix)
    assert flop_costs(MODEL, TRAIN, Layout()).block == 6 * matrices + 6 * MODEL.d_model * MODEL.seq_len


def test_a_block_that_recomputes_is_run_forward_twice() -> None:
    kept, attention = flop_costs(MODEL, TRAIN, Layout()).block, 6 * MODEL.d_model * MODEL.seq_len

    def more(**recompute: Any) -> float:
        return flop_costs(MODEL, TrainConfig(**recompute), Layout()).block - kept

    assert more(recompute="full") == pytest.approx(kept / 3)
    assert more(recompute="selective") == pytest.approx(attention / 3)
    assert more(recompute="full", recompute_layers=2) == pytest.approx(kept / 3 / 4), "2 of 8"


@pytest.mark.parametrize(
    ("layout", "sizes"),
    [
        (Layout(pp=2), (5, 3)),
        (Layout(pp=4), (2, 3, 2, 1)),
        (Layout(pp=2, vpp=2, schedule="interleaved_1f1b"), (2, 2, 3, 1)),
        (Layout(pp=2, vpp=2, schedule="zbv"), (2, 3, 2, 1)),
    ],
    ids=str,
)
def test_the_stage_with_a_heavy_head_has_fewer_blocks(layout: Layout, sizes: tuple[int, ...]) -> None:
    assert balance_stages(layout, 8, flop_costs(HEAD_HEAVY, TRAIN, layout)).stage_layers == sizes


def test_an_even_split_does_not_change_the_layout() -> None:
    for layout in (Layout(), Layout(pp=2)):
        assert balance_stages(layout, 8, Costs(first=0.0, block=1.0, last=0.5)) == layout


def config(run_dir: Path, corpus: Path, parallel: ParallelConfig) -> Config:
    model = ModelConfig(num_layers=4, d_model=32, num_heads=2, d_ff=64, seq_len=32, vocab_size=2000)
    train = TrainConfig(num_tokens=4 * 8 * 32, global_batch_size=8, micro_batch_size=2)
    return Config(run_dir=str(run_dir), model=model, data=DataConfig(path=str(corpus)), parallel=parallel, train=train)


def prepared(run_dir: Path, corpus: Path, **parallel: Any) -> Run:
    return prepare_run(config(run_dir, corpus, ParallelConfig(**parallel)))


def test_a_run_splits_its_blocks_as_its_config_asks(tmp_path: Path, corpus: Path) -> None:
    def sizes(**parallel: Any) -> tuple[int, ...] | None:
        return prepared(tmp_path, corpus, **parallel).layout.stage_layers

    assert sizes(pp=2) == (3, 1), "counted in FLOPs"
    assert sizes(pp=2, balance="even") is None
    assert sizes(pp=2, balance="measured") is None, "not known before the ranks start"
    assert sizes(pp=2, stage_layers=[1, 3]) == (1, 3), "by hand wins"
    assert sizes(pp=1) is None


def test_only_a_pipeline_that_is_not_split_by_hand_is_measured(tmp_path: Path, corpus: Path) -> None:
    assert prepared(tmp_path, corpus, pp=2, balance="measured").measures_stages
    assert not prepared(tmp_path, corpus, balance="measured").measures_stages
    assert not prepared(tmp_path, corpus, pp=2, balance="measured", stage_layers=[1, 3]).measures_stages
    assert not prepared(tmp_path, corpus, pp=2).measures_stages


def test_a_split_by_hand_of_other_stages_is_refused_before_a_rank_starts(tmp_path: Path, corpus: Path) -> None:
    with pytest.raises(LayoutError, match=r"stage_layers = \[1, 2\].*num_layers = 4"):
        prepared(tmp_path, corpus, pp=2, stage_layers=[1, 2])


def measure(*cases: tuple[ModelConfig, Layout, TrainConfig]) -> list[Costs]:
    """The costs of each case, measured with one thread."""
    torch.set_num_threads(1)
    return [measure_costs(*case, torch.device("cpu")) for case in cases]


def test_measured_costs_are_seconds_in_the_order_of_the_flops(ranks: RunOnRanks) -> None:
    model = ModelConfig(num_layers=8, d_model=256, num_heads=4, d_ff=1024, seq_len=64, vocab_size=4096)
    cases = [(model, Layout(), TRAIN), (model, Layout(tp=2), TrainConfig(precision="bf16", recompute="full"))]
    [(full, half)] = ranks(1, measure, *cases)
    assert all(cost > 0 for costs in (full, half) for cost in (costs.first, costs.block, costs.last))
    assert full.first < full.block, "a look-up multiplies nothing"
    ratio = (full.last / full.block) / (
        flop_costs(model, TRAIN, Layout()).last / flop_costs(model, TRAIN, Layout()).block
    )
    assert 1 / 3 < ratio < 3


def test_what_is_measured_under_tensor_parallelism_is_one_ranks_share() -> None:
    model = replace(MODEL, num_kv_heads=2, vocab_size=301)
    full, half = (flop_costs(each, TRAIN, Layout()) for each in (replace(model, vocab_size=302), local_model(model, 2)))
    assert (half.block, half.last) == (full.block / 2, full.last / 2)


@pytest.mark.long
def test_a_run_split_by_hand_has_the_curve_of_one_process(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks, expected_curve: list[float]
) -> None:
    run = prepared(tmp_path, corpus, pp=2, stage_layers=[1, 3])
    ranks(2, train_rank, run)
    assert curve(run) == pytest.approx(expected_curve, rel=1e-5)


@pytest.mark.long
def test_a_run_split_by_measured_costs_has_the_same_curve_and_reports_its_split_once(
    tmp_path: Path, corpus: Path, expected_curve: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    run = prepared(tmp_path, corpus, pp=2, balance="measured")
    assert run_local("foretrain.trainer.run.rank:train_rank", (run,), 2, log_dir=tmp_path / "logs") == 0
    assert curve(run) == pytest.approx(expected_curve, rel=1e-5)

    record = json.loads((tmp_path / STAGES_FILE).read_text())
    layout = balance_stages(run.layout, 4, Costs(**record["costs_s"]))
    assert record["stage_layers"] == [len(layout.layers_of(stage, 4)) for stage in (0, 1)]
    said = re.findall(r"as measured: (\[\d, \d\])", capfd.readouterr().out)
    assert said == [str(record["stage_layers"])]


@pytest.fixture(scope="module")
def expected_curve(tmp_path_factory: pytest.TempPathFactory, corpus: Path, ranks: RunOnRanks) -> list[float]:
    """The curve of one process."""
    run = prepared(tmp_path_factory.mktemp("one"), corpus)
    ranks(1, train_rank, run)
    assert len(curve(run)) == 5, "four steps and an evaluation"
    return curve(run)


def curve(run: Run) -> list[float]:
    """Loss and held-out loss of every step."""
    records = read_metrics(run.run_dir / METRICS_FILE)
    return [record["loss" if record["kind"] == "train" else "val_loss"] for record in records]
