"""A fit records the curves of run folders, or says why it has none, and names a run that leaves the common curve."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foretrain.configs import load as configs
from foretrain.configs.optimization import ScheduleConfig
from foretrain.configs.schema import Config, ModelConfig, TrainConfig
from foretrain.scaling.laws.runs import RunFacts
from foretrain.scaling.prediction.curves import recorded_curves
from foretrain.scaling.prediction.fit import evidence_of, fit_record
from foretrain.scaling.prediction.predict import Target, predict
from foretrain.scaling.prediction.record import FitRecord
from foretrain.scaling.prediction.table import read_table
from foretrain.trainer.metrics import METRICS_FILE
from foretrain.trainer.prediction.curve import PredictedCurve
from foretrain.trainer.prediction.windows import EDGES, NUM_WINDOWS
from foretrain.trainer.run.folder import CONFIG_FILE
from tests.cli import called
from tests.scaling.prediction.curves import SCHEDULE
from tests.scaling.prediction.folders import write_folder

NUM_STEPS, TOKENS_PER_STEP = 200, 256
NUM_TOKENS = NUM_STEPS * TOKENS_PER_STEP
CONFIG = Config(
    model=ModelConfig(vocab_size=300, seq_len=32),
    schedule=ScheduleConfig(kind="linear", warmup_tokens=NUM_TOKENS // 10, min_factor=0.0),
    train=TrainConfig(num_tokens=NUM_TOKENS, global_batch_size=8),
)


def write_run(folder: Path, flops: float, seed: int, factor: float = 1.0, config: Config = CONFIG) -> Path:
    """A finished run. `factor`: of its losses in the second half, the held-out loss among them."""
    random = np.random.default_rng([int(flops) % 997, seed])
    share = np.arange(1, NUM_STEPS + 1) / NUM_STEPS
    final = (1.8 + 1000 / flops**0.18) * np.exp(0.005 * random.standard_normal())
    losses = final * (0.65 + 0.35 * share**-0.3) * np.exp(0.02 * random.standard_normal(NUM_STEPS))
    losses = losses * np.where(share > 0.5, factor, 1.0)
    records: list[dict[str, Any]] = [
        {"kind": "train", "step": step, "loss": loss, "grad_norm": 1.0} for step, loss in enumerate(losses, start=1)
    ]
    records.append({"kind": "eval", "step": NUM_STEPS, "val_loss": 1.03 * final * factor})
    return write_folder(folder, config, flops, TOKENS_PER_STEP, records)


def ladder(folder: Path, wrong: int | None = None) -> list[Path]:
    """Five sizes with two seeds; the loss of the run with the number `wrong` is too high in its second half."""
    sizes = [(flops, seed) for flops in np.geomspace(1e15, 1e17, 5) for seed in (0, 1)]
    return [
        write_run(folder / f"run-{number}", flops, seed, 1.1 if number == wrong else 1.0)
        for number, (flops, seed) in enumerate(sizes)
    ]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> FitRecord:
    table = read_table(ladder(tmp_path_factory.mktemp("ladder")), "compute")
    return fit_record(table, evidence_of(table))


def target(**changes: Any) -> Target:
    same = {"tokenizer_sha256": "t", "data_fingerprint": "d"}
    return replace(Target(1e12, NUM_TOKENS, 6e17, same, {}, SCHEDULE), **changes)


def test_a_prediction_has_the_curve_of_the_runs_shape_that_ends_at_its_loss(fitted: FitRecord) -> None:
    assert len(fitted.curves["ratios"]) == 10 and not fitted.curves["leaving"]
    assert fitted.curves["schedule"] == SCHEDULE
    found = predict(fitted, "seal", target(num_params=None))
    curve = PredictedCurve.of(found.curve)
    middle = (EDGES[1:] + EDGES[:-1]) / 2
    # The first windows have few steps.
    expected = (0.65 + 0.35 * middle**-0.3) / 1.03
    assert np.array(curve.loss) / found.loss == pytest.approx(expected, rel=0.03)
    assert curve.final_ratio == pytest.approx(1 / 1.03, rel=0.01)
    assert (len(curve.tokens), curve.tokens[-1]) == (NUM_WINDOWS, NUM_TOKENS)
    low, high = curve.bounds["0.95"][-1]
    assert low < curve.loss[-1] < high


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schedule": None}, "numbers alone do not say which schedule the run has: give its config"),
        ({"schedule": {**SCHEDULE, "kind": "cosine"}}, "differ in their schedules (schedule kind cosine and linear)"),
        ({"schedule": {**SCHEDULE, "warmup_share": 0.2}}, "schedule warmup_share 0.2 and 0.1"),
    ],
)
def test_a_target_with_another_schedule_has_no_curve_and_a_reason(
    changes: dict[str, Any], reason: str, fitted: FitRecord
) -> None:
    found = predict(fitted, "seal", target(num_params=None, **changes))
    assert reason in found.curve["refused"] and found.loss > 0


def test_a_fit_of_an_older_version_has_no_curves(fitted: FitRecord) -> None:
    found = predict(replace(fitted, curves={}), "seal", target(num_params=None))
    assert "made by an older version" in found.curve["refused"]


def without_steps(folder: Path) -> None:
    lines = (folder / METRICS_FILE).read_text().splitlines(keepends=True)
    (folder / METRICS_FILE).write_text("".join(lines[:20] + lines[80:]))


def with_cosine(folder: Path) -> None:
    configs.save(replace(CONFIG, schedule=replace(CONFIG.schedule, kind="cosine")), folder / CONFIG_FILE)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without_steps, "run-3/metrics.jsonl lacks steps of a part of its curve"),
        (with_cosine, "run-3 differ in their schedules (schedule kind linear and cosine)"),
    ],
)
def test_runs_without_a_common_curve_are_named(change: Callable[[Path], None], reason: str, tmp_path: Path) -> None:
    folders = ladder(tmp_path)
    change(folders[3])
    found = recorded_curves([RunFacts.of_folder(folder) for folder in folders])
    assert reason in found["refused"]


def test_runs_of_one_size_and_of_a_table_have_no_curves(tmp_path: Path) -> None:
    same = [RunFacts.of_folder(write_run(tmp_path / str(seed), 1e15, seed)) for seed in (0, 1)]
    assert "all runs have one size" in recorded_curves(same)["refused"]
    row = RunFacts.of_row({"N": "1e6", "D": "1e8", "loss": "3"}, "runs.csv:2")
    assert recorded_curves([*same, row])["refused"] == "runs.csv:2 comes from a table, which has no curves"


def test_the_command_names_a_run_that_leaves_the_common_curve(tmp_path: Path) -> None:
    folders = list(map(str, ladder(tmp_path / "runs", wrong=6)))
    ended = called("fit", *folders, "--law", "compute_no_e", cwd=tmp_path)
    assert ended.status == 0, ended.err
    (warning,) = [line for line in ended.out.splitlines() if "WARNING" in line]
    assert "run-6 leaves the common curve from 5" in warning and "9 of 10 runs have one shape" in ended.out
    assert "(+9." in warning or "(+10." in warning
