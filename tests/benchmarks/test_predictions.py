"""The benchmark of sealed predictions: its plan, and a tiny one from its ladders to its tally."""

import json
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.predictions.__main__ import run
from benchmarks.predictions.commands import BASE
from benchmarks.predictions.noise import noise, slopes
from benchmarks.predictions.plan import (
    FROZEN,
    LINEAR,
    ON_GPU,
    PARAMETRIZATIONS,
    Family,
    Frozen,
    Parametrization,
    ladder_flops,
    overrides,
    rules_of,
    target_config,
)
from foretrain.configs import load as configs
from foretrain.configs.schema import Config
from foretrain.data_pipeline.prepare.build import prepare
from foretrain.scaling.ladder.plan import Ask, rungs_of
from foretrain.scaling.ladder.rungs import default_ratio, target_rung
from foretrain.scaling.prediction.record import ScoreRecord

TINY = Frozen(
    families=(Family("tiny", "texts", 1, 10, LINEAR, (20,), proxies=(8, 12, 16)),),
    law="compute_no_e",
    batch="linear",
    num_seeds=1,
    vocab_size=258,
    overrides=("train.eval_samples=32",),
)


def config_of(family: Family, width: int, parametrization: Parametrization) -> Config:
    settings = [*overrides(family, parametrization, "data"), *FROZEN.overrides]
    shared = configs.load(str(BASE), settings)
    shared = replace(shared, model=replace(shared.model, vocab_size=FROZEN.vocab_size))
    return target_config(family, width, shared, FROZEN.batch)


def test_there_are_twenty_targets_of_several_widths_depths_tokens_schedules_and_corpora() -> None:
    families = FROZEN.families
    assert FROZEN.num_targets == 20
    assert len({family.target_name(width) for family in families for width in family.widths}) == 20
    for field in ("corpus", "num_layers", "tokens_per_param", "schedule"):
        assert len({getattr(family, field) for family in families}) >= 2, field
    assert len({width for family in families for width in family.widths}) >= 4


@pytest.mark.parametrize("family", FROZEN.families, ids=lambda family: family.name)
def test_every_target_has_30_times_the_compute_of_its_largest_proxy_or_more_and_the_ladder_has_its_rungs(
    family: Family,
) -> None:
    costs = {}
    for parametrization in PARAMETRIZATIONS:
        target = config_of(family, max(family.widths), parametrization)
        rules = rules_of(target, FROZEN.batch)
        assert rules.tokens_per_param == pytest.approx(family.tokens_per_param, rel=0.01)
        budget = ladder_flops(family, target, FROZEN)
        ask = Ask(budget, len(family.proxies), FROZEN.num_seeds, batch=FROZEN.batch, min_width=min(family.proxies))
        rules = replace(rules, min_width=min(family.proxies))
        rungs = rungs_of(ask, target, rules, default_ratio(len(family.proxies)))
        assert tuple(rung.model.d_model for rung in rungs) == family.proxies
        smallest = target_rung(config_of(family, min(family.widths), parametrization))
        assert smallest.flops >= 30 * rungs[-1].flops
        costs[parametrization] = ([rung.flops for rung in rungs], smallest.flops, target_rung(target).flops)
    assert costs["mup"] == costs["standard"]


def test_the_target_on_a_gpu_has_300_times_the_compute_of_its_largest_proxy_and_reads_its_text_once() -> None:
    (family,) = ON_GPU.families
    (width,) = family.widths
    target = config_of(family, width, "mup")
    rules = replace(rules_of(target, ON_GPU.batch), min_width=min(family.proxies))
    ask = Ask(ladder_flops(family, target, ON_GPU), len(family.proxies), ON_GPU.num_seeds, batch=ON_GPU.batch)
    rungs = rungs_of(ask, target, rules, default_ratio(len(family.proxies)))
    assert tuple(rung.model.d_model for rung in rungs) == family.proxies
    assert target_rung(target).flops >= 300 * rungs[-1].flops
    assert target.train.num_tokens < 12_000_000  # the standard library of Python 3.11 has 15 million


def test_the_noise_is_relative_and_pooled_and_slopes_are_those_of_the_mean_losses() -> None:
    assert noise([[1.0, 1.0], [2.0, 2.2]]) == pytest.approx(0.0476, abs=1e-4)  # sqrt((0 + (0.1414 / 2.1)^2) / 2)
    rungs = [{"losses": [4.0, 4.0], "flops": 1e10}, {"losses": [2.0], "flops": 4e10}, {"losses": [2.0], "flops": 8e10}]
    assert slopes(rungs) == pytest.approx([0.5, 0.0])


@pytest.mark.long
def test_a_tiny_plan_seals_before_it_trains_and_a_second_call_makes_nothing_again(tmp_path: Path) -> None:
    library = Path(sysconfig.get_paths()["stdlib"])
    texts = [library / name for name in ("email", "json", "logging", "unittest")]
    out, work = tmp_path / "out", tmp_path / "work"
    prepare(texts, work / "data" / "texts_258", vocab_size=258)
    assert run(TINY, out, work, 2, "seals")
    sealed = {path: path.read_bytes() for path in out.rglob("*.json")}
    assert len(sealed) == 2 + 2  # a fit and a prediction of each parametrization

    run(TINY, out, work, 2)
    assert {path: path.read_bytes() for path in sealed} == sealed
    scores = sorted(out.rglob("*.score.json"))
    assert len(scores) == 2 and not any(ScoreRecord.read(path).problems for path in scores)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["mup"]["tally"][-1]["count"] == summary["standard"]["tally"][-1]["count"] == 1
    assert summary["mup"]["flops"] == summary["standard"]["flops"]

    times = {path: path.stat().st_mtime_ns for path in (*sealed, *scores, *(work / "mup" / "runs").rglob("*"))}
    run(TINY, out, work, 2)
    assert {path: path.stat().st_mtime_ns for path in times} == times
