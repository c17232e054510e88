"""`foretrain budget` as a command: its page, its numbers, a config that trains, and what it refuses."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foretrain.configs import load as configs
from foretrain.scaling.laws.forms import FORMS
from foretrain.scaling.laws.runs import RunFacts
from foretrain.scaling.prediction.fit import evidence_of, fit_record
from foretrain.scaling.prediction.table import RunTable
from foretrain.trainer.run.setup import prepare_run
from tests.cli import Ended, assert_refused, called
from tests.scaling.ladder.tiny import users_folder
from tests.scaling.transfer.builder import Folder, target


def runs(**same: Any) -> tuple[RunFacts, ...]:
    """Runs of 6 models with 4 numbers of tokens each."""
    random, found = np.random.default_rng(0), []
    for params in np.geomspace(1e4, 1e6, 6):
        for ratio in (5, 12, 30, 80):
            tokens = params * ratio
            loss = (1.8 + 20 / params**0.3 + 60 / tokens**0.35) * np.exp(0.003 * random.standard_normal())
            sizes = {"num_params": params, "num_tokens": tokens, "flops": 6 * params * tokens}
            found.append(RunFacts(name=f"{params:.0f}-{ratio}", loss=float(loss), **sizes, **same))
    return tuple(found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    folder = users_folder(tmp_path_factory.mktemp("user"), corpus)
    found = runs(parametrization="mup", seq_len=32)
    for name in ("chinchilla", "compute"):
        table = RunTable(FORMS.get(name), found, embeddings=True)
        fit_record(table, evidence_of(table)).write(folder / f"{name}.json")
    Folder().write(folder / "sweep")
    Folder(check=None).write(folder / "unchecked")
    target(folder / "large.yaml")
    return folder


def budget(folder: Path, *arguments: str) -> Ended:
    return called("budget", *arguments, cwd=folder, COLUMNS="200")


def test_the_page_has_the_optimum_the_run_and_smaller_models_and_the_config_trains(folder: Path) -> None:
    ended = budget(
        folder, "target.yaml", "--flops", "1e13", "--fit", "chinchilla.json", "--out", "run.yaml", "--json", "run.json"
    )
    assert (ended.status, ended.err) == (0, "")
    for words in ("compute-optimal", "80 % interval", "95 % interval", "tokens per parameter", "pays after"):
        assert words in ended.out
    assert "profile likelihood over the runs of the fit" in ended.out
    assert "run.yaml: the config, for `foretrain train` and `foretrain launch`" in ended.out
    found = json.loads((folder / "run.json").read_text())
    low, high = found["optimum"]["intervals"]["num_params"]["0.9"]
    assert low < found["optimum"]["num_params"] < high
    low, high = found["run"]["loss_intervals"]["0.9"]
    assert low < found["run"]["predicted_loss"] < high
    config = configs.load(folder / "run.yaml")
    assert config.run_dir == "runs/run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run = prepare_run(config)
    assert run.total_steps == found["run"]["num_steps"]
    assert run.config.model.d_model == found["run"]["d_model"]
    assert found["run"]["epochs"] > 1
    assert config.mup.base == configs.load(folder / "target.yaml").mup.base
    head = (folder / "run.yaml").read_text().splitlines()
    assert head[0].startswith("# Written by `foretrain budget`")
    assert any(line.startswith("# predicted loss ") for line in head)
    again = budget(folder, "target.yaml", "--flops", "1e13", "--fit", "chinchilla.json", "--out", "run.yaml")
    assert_refused(again, "run.yaml exists: choose another --out, or replace it with --overwrite")


def test_the_default_config_takes_settings_without_a_config(folder: Path) -> None:
    ended = budget(folder, "model.seq_len=2048", "--cost", "20000", "--price", "2.5", "--gpu", "H100", "--law", "refit")
    assert (ended.status, ended.err) == (0, "")
    assert "8,000 hours of H100 (989 TFLOP/s, MFU 0.4, which is assumed) = 20,000 USD at 2.5 for an hour" in ended.out
    assert "days on the 64 ranks of the config's layout" in ended.out
    assert "profile likelihood over these 240 runs" in ended.out


def test_the_rate_is_that_of_the_sweep_with_its_evidence_or_the_run_is_refused(folder: Path) -> None:
    # The proxies have 20 tokens per parameter, which this law finds optimal at this compute.
    command = ("large.yaml", "--law", "refit", "--flops", "6e16", "train.global_batch_size=16")
    ended = budget(folder, *command, "--sweep", "sweep", "--out", "swept.yaml", "--force")
    assert ended.status == 0
    config = configs.load(folder / "swept.yaml")
    assert math.log2(config.optimizer.lr) == pytest.approx(-5.2, abs=0.05)
    assert "the optimum at the largest proxy" in config.mup.evidence[0]
    refused = budget(folder, *command, "--sweep", "unchecked", "--out", "refused.yaml")
    assert refused.status == 1 and "there is no coordinate check" in refused.err
    assert not (folder / "refused.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--flops", "1e13"), "no law is given: give --fit FILE, of `foretrain fit`, or --law hoffmann or refit"),
        (("--flops", "1e13", "--law", "refit", "--fit", "chinchilla.json"), "--fit and --law both name a law"),
        (("--flops", "1e13", "--fit", "compute.json"), "which cannot separate parameters from tokens: fit runs whose"),
        (("--flops", "0", "--law", "refit"), "--flops 0 is not a positive number"),
        (("--law", "refit"), "no budget is given"),
        (("--flops", "1e13", "--law", "refit", "--out", "no/run.yaml"), "cannot use no/run.yaml"),
    ],
)
def test_what_is_missing_or_wrong_is_refused_in_one_line(folder: Path, arguments: tuple[str, ...], words: str) -> None:
    assert_refused(budget(folder, "target.yaml", *arguments), words)


def test_files_that_exist_or_are_named_twice_are_not_replaced(folder: Path) -> None:
    before = (folder / "chinchilla.json").read_text()
    command = ("target.yaml", "--flops", "1e13", "--fit", "chinchilla.json")
    assert_refused(
        budget(folder, *command, "--json", "chinchilla.json"), "chinchilla.json exists: choose another --json"
    )
    assert_refused(budget(folder, *command, "--out", "x", "--json", "./x"), "--out and --json name the same file")
    assert (folder / "chinchilla.json").read_text() == before and not (folder / "x").exists()


def test_a_fit_of_other_runs_is_named(folder: Path) -> None:
    ended = budget(folder, "target.yaml", "model.seq_len=16", "--flops", "1e13", "--fit", "chinchilla.json")
    assert ended.status == 0
    assert "warning: the target's seq_len (16) is not that of the runs (32)" in ended.out
