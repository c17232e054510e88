"""An optimizer that a plugin adds trains, saves, resumes, and is refused where it cannot work."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foretrain.configs.data import DataConfig
from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.parametrization import BaseConfig, MupConfig
from foretrain.configs.schema import Config, ParallelConfig, TrainConfig
from foretrain.parallel.layout import Layout
from foretrain.registry import import_plugins
from foretrain.trainer.metrics import METRICS_FILE, read_metrics
from foretrain.trainer.mup.parametrize import blueprint
from foretrain.trainer.optimizers.entry import check_layout, entry_of
from foretrain.trainer.run.rank import train_rank
from foretrain.trainer.run.setup import prepare_run
from foretrain.trainer.verification.probe import probe
from foretrain.trainer.verification.reference import reference
from tests.conftest import RunOnRanks
from tests.parallel import workers

PLUGIN = "tests.plugins.optimizers"
LION = OptimizerConfig(kind="soft_lion", lr=1e-3, eps=1e-3, clip_norm=0.5, options={"inertia": 0.8})
NUM_STEPS = 5


@pytest.fixture(scope="module", autouse=True)
def plugin() -> None:
    import_plugins([PLUGIN])


def config(optimizer: OptimizerConfig = LION, **sections: Any) -> Config:
    train = TrainConfig(global_batch_size=8, micro_batch_size=2)
    mup = MupConfig(parametrization="completep", base=BaseConfig(d_model=16, num_heads=2, num_kv_heads=1, num_layers=2))
    defaults: dict[str, Any] = {"model": workers.small_model(), "train": train, "mup": mup}
    return Config(plugins=[PLUGIN], optimizer=optimizer, **(defaults | sections))


@pytest.mark.parametrize("layout", [Layout(), Layout(tp=2, pp=2)], ids=str)
def test_it_has_the_curve_of_plain_torch_on_one_process_and_under_tensor_and_pipeline_parallelism(
    layout: Layout, ranks: RunOnRanks
) -> None:
    expected = reference(config(), "float64", NUM_STEPS)
    for curve in ranks(layout.world_size, probe, config(), layout, NUM_STEPS):
        assert curve.losses == pytest.approx(expected.losses, rel=1e-5)
        assert curve.grad_norms == pytest.approx(expected.grad_norms, rel=1e-5)
    adamw = reference(config(replace(LION, kind="adamw", options={})), "float64", NUM_STEPS)
    assert adamw.losses != pytest.approx(expected.losses, rel=1e-4), "the optimizer matters"


@pytest.mark.long
def test_its_states_are_saved_and_it_resumes_bitwise(tmp_path: Path, corpus: Path, ranks: RunOnRanks) -> None:
    def losses(name: str, **train: Any) -> list[float]:
        settings = TrainConfig(num_tokens=6 * 8 * 16, global_batch_size=8, eval_samples=0, **train)
        model = replace(workers.small_model(), vocab_size=None)
        asked = config(model=model, train=settings, data=DataConfig(str(corpus)), parallel=ParallelConfig(dp=2))
        run = prepare_run(replace(asked, run_dir=str(tmp_path / name)))
        ranks(2, train_rank, run)
        return [record["loss"] for record in read_metrics(run.run_dir / METRICS_FILE)]

    full = losses("full")
    losses("parts", stop_after=2)
    assert losses("parts") == full and len(full) == 6


@pytest.mark.parametrize("parametrization", ["mup", "completep"])
def test_it_is_refused_under_mup_if_it_has_no_rule(parametrization: Any) -> None:
    asked = config(replace(LION, kind="lion_without_a_rule"))
    asked = replace(asked, mup=replace(asked.mup, parametrization=parametrization))
    with pytest.raises(
        ValueError, match=f"{parametrization} has no rule for optimizer.kind = lion_without_a_rule.*set"
    ):
        blueprint(asked)
    blueprint(replace(asked, mup=MupConfig()))


def test_an_option_that_it_does_not_have_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(ValueError, match=r"optimizer\.options\.inertai: .*'soft_lion'.* takes inertia"):
        entry_of(replace(LION, options={"inertai": 0.8}))
    with pytest.raises(ValueError, match=r"optimizer\.options\.inertia: .*'adamw'.* takes none"):
        entry_of(replace(LION, kind="adamw"))


@pytest.mark.parametrize(
    ("layout", "fixed"),
    [(Layout(tp=2, zero_stage=0), "parallel.tp=1"), (Layout(dp=2), "parallel.zero_stage=0")],
    ids=str,
)
def test_one_that_needs_matrices_in_one_piece_is_refused_where_they_are_split(layout: Layout, fixed: str) -> None:
    optimizer = OptimizerConfig(kind="normalized_sgd")
    with pytest.raises(ValueError, match=f"'normalized_sgd' needs each matrix in one piece: set {fixed}"):
        check_layout(optimizer, layout)
    check_layout(optimizer, Layout(dp=2, pp=2, zero_stage=0))
    check_layout(LION, layout)


def test_one_that_needs_matrices_in_one_piece_trains_where_they_are(ranks: RunOnRanks) -> None:
    asked = config(OptimizerConfig(kind="normalized_sgd", lr=1e-2), mup=MupConfig())
    expected = reference(asked, "float64", NUM_STEPS)
    for curve in ranks(2, probe, asked, Layout(pp=2, zero_stage=0), NUM_STEPS):
        assert curve.losses == pytest.approx(expected.losses, rel=1e-5)
