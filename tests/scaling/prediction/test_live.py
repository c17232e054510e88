"""A real ladder, its prediction, a run that stays in the band, and one that is reported: its rate is wrong."""

import json
import sysconfig
from pathlib import Path

import pytest

from foretrain.data_pipeline.prepare.build import prepare
from foretrain.trainer.metrics import METRICS_FILE, read_metrics
from tests.cli import called, end, start
from tests.scaling.ladder.tiny import CONFIG

SMALLER = (
    "model.d_model=40",
    "model.num_heads=5",
    "model.d_ff=80",
    "train.num_tokens=92_160",
    "schedule.warmup_tokens=9_216",
)


@pytest.mark.long
def test_a_sound_run_stays_in_the_band_of_its_ladder_and_a_wrong_rate_from_the_middle_on_is_reported(
    tmp_path: Path,
) -> None:
    # Losses of real text fall alike at every size; those of the corpus of the other tests do not.
    library = Path(sysconfig.get_paths()["stdlib"])
    prepare([library / name for name in ("email", "json", "logging", "unittest")], tmp_path / "corpus", vocab_size=300)
    (tmp_path / "target.yaml").write_text(CONFIG)
    options = ("--budget", "1e11", "--points", "3", "--seeds", "2", "--jobs", "2", "--min-width", "16")
    ladder = called("ladder", "target.yaml", "--out", "ladder", *options, *SMALLER, cwd=tmp_path)
    assert ladder.status == 0, ladder.err
    fit = called("fit", "ladder", "--law", "compute_no_e", "--out", "fit.json", cwd=tmp_path)
    assert fit.status == 0, fit.err
    assert "loss curves: 6 of 6 runs have one shape" in fit.out, fit.out
    predicted = called("predict", "target.yaml", *SMALLER, "--fit", "fit.json", "--out", "sealed.json", cwd=tmp_path)
    assert predicted.status == 0, predicted.err
    assert "loss curve: the shape of the runs' curves" in predicted.out

    kinds, settings = {}, (*SMALLER, "train.prediction=sealed.json")
    both = {
        name: start("train", "target.yaml", *settings, f"run_dir={name}", f"plugins=[{plugins}]", cwd=tmp_path)
        for name, plugins in (("sound", ""), ("wrong", "tests.plugins.wrong_rate"))
    }
    for name, process in both.items():
        ended = end(process)
        assert ended.status == 0, ended.err
        records = read_metrics(tmp_path / name / METRICS_FILE)
        kinds[name] = [(record["kind"], record["step"]) for record in records if "prediction" in record["kind"]]
    assert kinds["sound"] == [("prediction", 0)]
    (_, (kind, step)) = kinds["wrong"]
    half = max(record["step"] for record in records) / 2
    assert kind == "left_prediction" and half < step < 1.3 * half
    assert "has left the predicted curve" in ended.out

    score = called("score", "sound", cwd=tmp_path)
    assert score.status == 0 and "does not count" not in score.out, score.err
    assert json.loads((tmp_path / "sealed.score.json").read_text())["inside"]["0.95"]
