"""An objective that a plugin adds gives one curve under every layout, and is refused where it cannot work."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foretrain.configs.data import DataConfig
from foretrain.configs.optimization import ObjectiveConfig, OptimizerConfig
from foretrain.configs.schema import Config, ParallelConfig, SampleConfig, TrainConfig
from foretrain.data_pipeline.stream.batch import IGNORE
from foretrain.parallel.layout import Layout
from foretrain.registry import import_plugins
from foretrain.trainer.metrics import METRICS_FILE, read_metrics
from foretrain.trainer.model.gpt import build_model
from foretrain.trainer.mup.parametrize import blueprint
from foretrain.trainer.objectives.base import Objective, objective_of
from foretrain.trainer.run.rank import train_rank
from foretrain.trainer.run.setup import prepare_run
from foretrain.trainer.verification.probe import make_samples, probe
from foretrain.trainer.verification.reference import reference
from tests.conftest import RunOnRanks
from tests.parallel import workers

PLUGIN = "tests.plugins.objectives"
MASKED = ObjectiveConfig("masked", {"mask_share": 0.3})
NUM_STEPS = 5


@pytest.fixture(scope="module", autouse=True)
def plugin() -> None:
    import_plugins([PLUGIN])


def config(**sections: Any) -> Config:
    defaults: dict[str, Any] = {
        "model": workers.small_model(),
        "train": TrainConfig(global_batch_size=8, micro_batch_size=2),
        "optimizer": OptimizerConfig(lr=1e-3, clip_norm=0.5),
        "objective": MASKED,
    }
    return Config(plugins=[PLUGIN], **(defaults | sections))


def objective() -> Objective:
    return objective_of(config())(config())


@pytest.mark.parametrize("layout", [Layout(), Layout(tp=2, pp=2), Layout(dp=2, cp=2)], ids=str)
def test_it_has_the_curve_of_plain_torch_on_one_process_and_in_parallel(layout: Layout, ranks: RunOnRanks) -> None:
    expected = reference(config(), "float64", NUM_STEPS)
    for curve in ranks(layout.world_size, probe, config(), layout, NUM_STEPS):
        assert curve.losses == pytest.approx(expected.losses, rel=1e-5)
        assert curve.grad_norms == pytest.approx(expected.grad_norms, rel=1e-5)
    next_token = reference(config(objective=ObjectiveConfig()), "float64", NUM_STEPS)
    assert next_token.losses != pytest.approx(expected.losses, rel=1e-2), "the objective matters"


def test_what_it_makes_of_a_sample_does_not_depend_on_the_rank() -> None:
    full = objective().inputs_and_targets(make_samples(config(), 3))
    parts = [objective().inputs_and_targets(make_samples(config(), 3, slice(at, at + 2))) for at in range(0, 8, 2)]
    for one, split in zip(full, zip(*parts, strict=True), strict=True):
        assert np.array_equal(one, np.concatenate(split))
    assert 0 < (full[1] != IGNORE).mean() < 0.3
    other = objective().inputs_and_targets(make_samples(config(), 4))
    assert not np.array_equal(full[1] == IGNORE, other[1] == IGNORE), "each sample has its own mask"


def test_its_attention_sees_later_positions() -> None:
    for kind, sees in (("masked", True), ("next_token", False)):
        plan = blueprint(config(objective=ObjectiveConfig(kind)))
        model = build_model(plan, seed=0)
        tokens_BL = torch.arange(16)[None]
        other_BL = tokens_BL.clone()
        other_BL[0, -1] = 0
        first, changed = (model(x)[0] for x in (tokens_BL, other_BL))
        assert torch.equal(first, changed) != sees


@pytest.mark.long
def test_it_resumes_bitwise_and_continues_its_curve_on_another_number_of_ranks(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    def losses(name: str, dp: int = 1, **train: Any) -> list[float]:
        settings = TrainConfig(num_tokens=6 * 8 * 16, global_batch_size=8, eval_samples=5, eval_every=2, **train)
        asked = config(
            run_dir=str(tmp_path / name),
            model=replace(workers.small_model(), vocab_size=None),
            data=DataConfig(str(corpus)),
            train=settings,
            parallel=ParallelConfig(dp=dp),
        )
        run = prepare_run(asked)
        ranks(dp, train_rank, run)
        records = read_metrics(run.run_dir / METRICS_FILE)
        return [record["loss" if record["kind"] == "train" else "val_loss"] for record in records]

    full = losses("full")
    assert len(full) == 6 + 3, "each step, and an evaluation after every second one"
    losses("same", stop_after=3)
    shutil.copytree(tmp_path / "same", tmp_path / "other")
    assert losses("same") == full
    assert losses("other", dp=2) == pytest.approx(full, rel=1e-5)


def test_what_needs_causal_attention_is_refused_with_what_to_change() -> None:
    with pytest.raises(ValueError, match=r"objective\.kind = masked .* set data\.packing=windows"):
        objective_of(config(data=DataConfig(packing="documents")))
    with pytest.raises(ValueError, match=r"objective\.kind = masked .* remove sample\.prompts"):
        objective_of(config(sample=SampleConfig(["Once"])))
    with pytest.raises(ValueError, match=r"objective\.options\.share: .* takes mask_share"):
        objective_of(config(objective=ObjectiveConfig("masked", {"share": 0.3})))
