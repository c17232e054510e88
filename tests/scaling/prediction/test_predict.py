"""A prediction is sealed, refused with every reason if its runs do not support it, and scored by its own run alone."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from foretrain.configs.optimization import OptimizerConfig
from foretrain.configs.schema import Config
from foretrain.scaling.laws.forms import FORMS
from foretrain.scaling.laws.runs import RunFacts
from foretrain.scaling.prediction import table
from foretrain.scaling.prediction.fit import evidence_of, fit_record
from foretrain.scaling.prediction.folder import read_folder
from foretrain.scaling.prediction.predict import Target, predict
from foretrain.scaling.prediction.record import FitRecord, PredictionRecord
from foretrain.scaling.prediction.score import score
from foretrain.scaling.prediction.table import RunTable
from foretrain.scaling.prediction.target import start_of
from foretrain.trainer.goodput import facts
from foretrain.trainer.prediction.target import SAME
from foretrain.verbs.app import app

TRUE: dict[str, Any] = {"tokenizer_sha256": "t", "parametrization": "mup"}


def law(flops: Any) -> Any:
    return 1.8 + 1000 / flops**0.18


def runs(noise: float = 0.004, seeds: int = 2, num: int = 8) -> tuple[RunFacts, ...]:
    """Runs at 20 tokens per parameter."""
    random = np.random.default_rng(0)
    found = []
    for flops in np.geomspace(1e15, 1e18, num):
        params = float(np.sqrt(flops / 120))
        for seed in range(seeds):
            loss = float(law(flops) * np.exp(noise * random.standard_normal()))
            sizes: dict[str, Any] = {"num_params": params, "num_tokens": 20 * params, "flops": float(flops)}
            found.append(RunFacts(name=f"runs/{flops:.0e}-{seed}", loss=loss, seed=seed, **sizes, **TRUE))
    return tuple(found)


def record_of(found: tuple[RunFacts, ...], form: str = "compute") -> FitRecord:
    runs_of_fit = RunTable(FORMS.get(form), found, embeddings=True)
    return fit_record(runs_of_fit, evidence_of(runs_of_fit))


def target(flops: float = 3e19, tokens_per_param: float = 20.0, **same: Any) -> Target:
    params = float(np.sqrt(flops / 6 / tokens_per_param))
    return Target(params, params * tokens_per_param, flops, {**TRUE, **same}, {})


@pytest.fixture(scope="module")
def fitted() -> FitRecord:
    return record_of(runs())


def test_a_prediction_at_30_times_the_compute_holds_the_truth(fitted: FitRecord) -> None:
    found = predict(fitted, "seal", target())
    low, high = found.intervals["0.95"]
    assert low < law(3e19) < high and found.ratio == pytest.approx(30.0)
    widths = [high - low for low, high in found.intervals.values()]
    means = [high - low for low, high in found.mean_intervals.values()]
    assert widths == sorted(widths) and all(mean < one for mean, one in zip(means, widths, strict=True))
    assert set(found.baselines) == {"largest_run", "power_law"}
    exact = [high - low for low, high in found.if_right.values() if low is not None and high is not None]
    assert exact == sorted(exact) and exact[1] < widths[1]  # a law without a discrepancy leaves less open


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (target(1e17), "is not larger than the largest run"),
        (target(1e24), "and these runs support 1e+04 times: add runs of up to"),
        (target(tokenizer_sha256="other"), "the target's tokenizer_sha256 (other) is not that of the runs (t)"),
        (target(parametrization="standard"), "fit runs that share its parametrizations"),
        (target(tokens_per_param=100), "the target has 100 tokens per parameter, and the runs have 20 to 20"),
    ],
)
def test_what_the_runs_do_not_support_is_refused(changed: Target, words: str, fitted: FitRecord) -> None:
    with pytest.raises(ValueError, match="the runs of the fit do not support this prediction") as refused:
        predict(fitted, "seal", changed)
    assert words in str(refused.value)


def test_a_run_is_compared_in_all_that_a_prediction_says_of_it() -> None:
    assert tuple(table.SAME) == SAME


def test_few_sizes_give_a_wide_interval_and_no_more_than_parameters_none() -> None:
    few, many = (predict(record_of(runs(num=num, seeds=1)), "seal", target(2e19)).intervals["0.9"] for num in (4, 12))
    assert few[1] - few[0] > 1.5 * (many[1] - many[0])
    assert few[0] < law(2e19) < few[1]
    with pytest.raises(ValueError, match=r"3 sizes determine the 3 parameters of .* exactly"):
        predict(record_of(runs(num=3, seeds=2)), "seal", target(2e19))
    with pytest.raises(ValueError, match=r"runs of 2 sizes, .* cannot determine the 3 parameters"):
        record_of(runs(num=2, seeds=1))


def test_a_prediction_that_leaves_the_loss_open_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the runs leave the loss open by \d+ % .*: add sizes, or larger ones"):
        predict(record_of(runs(noise=0.1, num=4, seeds=1)), "seal", target(2e20))


def test_every_reason_is_given(fitted: FitRecord) -> None:
    with pytest.raises(ValueError, match="do not support") as refused:
        predict(fitted, "seal", target(1e17, tokens_per_param=100, tokenizer_sha256="other"))
    assert len(str(refused.value).splitlines()) == 4


def test_a_changed_file_is_detected_whatever_was_changed(fitted: FitRecord, tmp_path: Path) -> None:
    path = tmp_path / "prediction.json"
    predict(fitted, "seal", target()).write(path)
    values = json.loads(path.read_text())
    assert PredictionRecord.read(path).loss == values["loss"]
    for name in set(values) - {"kind", "version"}:
        path.write_text(json.dumps({**values, name: "changed"}))
        with pytest.raises(ValueError, match="was changed after it was sealed: restore it, or make a new prediction"):
            PredictionRecord.read(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="is not a prediction"):
        PredictionRecord.read(path)


def called(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": "200"})


BEFORE, AFTER = datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


def measured(loss: float, of: Target) -> RunFacts:
    sizes: dict[str, Any] = {"num_params": of.num_params, "num_tokens": of.num_tokens, "flops": of.flops}
    return RunFacts(name="runs/large", loss=loss, **sizes, **TRUE)


def test_a_score_has_the_error_and_the_intervals_that_hold_the_loss(fitted: FitRecord) -> None:
    found = predict(fitted, "seal", target())
    right = score(found, measured(found.loss, target()), AFTER)
    assert right.counts and right.error == 0.0 and all(right.inside.values())
    wrong = score(found, measured(2 * found.loss, target()), AFTER)
    assert wrong.counts and wrong.error == pytest.approx(-0.5) and not any(wrong.inside.values())
    assert wrong.baseline_errors["largest_run"] == pytest.approx(found.baselines["largest_run"] / 2 / found.loss - 1)


def test_a_run_that_started_before_the_seal_or_is_another_one_does_not_count(fitted: FitRecord) -> None:
    found = predict(fitted, "seal", target())
    run = measured(found.loss, target())
    assert "before the seal" in score(found, run, BEFORE).problems[0]
    assert "does not say when it began" in score(found, run, None).problems[0]
    assert "D = " in score(found, replace(run, num_tokens=1.0), AFTER).problems[0]
    assert "tokenizer_sha256" in score(found, replace(run, tokenizer_sha256="x"), AFTER).problems[0]


def test_a_run_with_older_weights_or_steps_or_another_rate_does_not_count(fitted: FitRecord, tmp_path: Path) -> None:
    """The ways in which a run that is known already could be scored as a new one."""
    found = predict(fitted, "seal", replace(target(), settings={"lr": 0.01}))
    run = replace(measured(found.loss, target()), config=Config(optimizer=OptimizerConfig(lr=0.01)))
    assert score(found, run, AFTER).counts
    assert "weights of another" in score(found, replace(run, parent="runs/old/step-4"), AFTER).problems[0]
    other = replace(run, config=Config(optimizer=OptimizerConfig(lr=0.02)))
    assert score(found, other, AFTER).problems == ["the prediction is for lr = 0.01, and the run has 0.02"]
    for step, known in ((0, True), (4, False)):  # checkpoints of another folder were copied into this one
        folder = tmp_path / str(step)
        folder.mkdir()
        facts.append(folder, facts.Fact("process", 1e9))
        facts.append(folder, facts.Fact("begin", 1e9 + 1, step=step))
        assert (start_of(folder) is not None) == known
    assert start_of(tmp_path) is None


def test_the_seal_covers_the_runs_that_were_used_and_the_law_that_was_fitted_to_them() -> None:
    params = np.repeat(np.geomspace(1e6, 1e8, 6), 4)
    ratios = np.tile([5.0, 12.0, 30.0, 3000.0], 6)
    found = tuple(
        RunFacts(
            name=f"runs/{number}",
            loss=float(1.8 + 480 / each**0.35 + 2000 / (each * ratio) ** 0.37 + (0.5 if ratio > 1000 else 0.0)),
            num_params=float(each),
            num_tokens=float(each * ratio),
            flops=float(6 * each * each * ratio),
            metrics_sha256=f"{number}",
        )
        for number, (each, ratio) in enumerate(zip(params, ratios, strict=True))
    )
    record = record_of(found, "chinchilla")
    prediction = predict(record, "seal", Target(1e9, 2e10, 1.2e20, {}, {}))
    assert [run["sha256"] for run in prediction.fit["runs"]] == [f"{number}" for number in range(24) if number % 4 < 3]
    assert prediction.fit["parameters"]["alpha"] == pytest.approx(0.35, abs=1e-3)
    assert record.parameters["alpha"]["value"] != pytest.approx(0.35, abs=1e-3)


def of_sizes(sizes: list[tuple[float, float]], form: str) -> FitRecord:
    """A fit of runs with these N and tokens per parameter."""
    return record_of(
        tuple(
            RunFacts(
                name=f"runs/{number}",
                loss=float(1.8 + 480 / params**0.35 + 2000 / (params * ratio) ** 0.37),
                num_params=params,
                num_tokens=params * ratio,
                flops=6 * params**2 * ratio,
            )
            for number, (params, ratio) in enumerate(sizes)
        ),
        form,
    )


@pytest.mark.parametrize("num_others", [2, 3])
def test_a_law_of_parameters_that_rests_on_one_or_two_runs_is_refused(num_others: int) -> None:
    ratios = [5.0, 10.0, 20.0, 40.0, 80.0, 160.0]
    record = of_sizes([(1e7, each) for each in ratios] + [(4e7, each) for each in ratios[:num_others]], "chinchilla")
    small = Target(1e8, 2e9, 1.2e18, {}, {})
    if num_others == 2:
        with pytest.raises(ValueError, match="all runs but 2 have the same N, and too few show"):
            predict(record, "seal", small)
        return
    assert predict(record, "seal", small).loss > 0


def test_a_law_of_compute_is_refused_where_runs_of_as_much_compute_differ() -> None:
    """Longer and longer runs of one model show nothing of larger ones, though one of them has the target's D / N."""
    longer = of_sizes([(1e7, each) for each in (5.0, 10.0, 20.0, 40.0, 80.0, 160.0)], "compute")
    with pytest.raises(ValueError, match="5 to 160 tokens per parameter, and N and D do not grow together"):
        predict(longer, "seal", Target(1e8, 2e9, 1.2e18, {}, {}))
    larger = of_sizes([(1e7 * 2**each, 10.0 * 1.2**each) for each in range(6)], "compute")  # a path of growing models
    assert predict(larger, "seal", Target(1e9, 2e10, 1.2e20, {}, {})).loss > 0


def test_what_any_run_knows_is_compared_with_the_target() -> None:
    """A row of a table that comes first knows no tokenizer."""
    first, *others = runs()
    record = record_of((replace(first, tokenizer_sha256="", parametrization=""), *others))
    with pytest.raises(ValueError, match="tokenizer_sha256"):
        predict(record, "seal", target(tokenizer_sha256="other"))


def test_no_score_is_replaced_or_hidden(fitted: FitRecord, tmp_path: Path) -> None:
    found = predict(fitted, "seal", target())
    seal = found.write(tmp_path / "a.json")
    for name, loss, time in (("late", found.loss, "2031"), ("first", 2 * found.loss, "2030")):
        record = score(found, measured(loss, target()), AFTER).record(name, seal)
        replace(record, time=f"{time}-01-01T00:00:00+00:00").write(tmp_path / f"{name}.score.json")
    (tmp_path / "damaged.json").write_text("{")
    folder = read_folder(tmp_path)
    assert [each.error for each in folder.scored] == [pytest.approx(-0.5)]
    assert any("damaged.json cannot be read" in note for note in folder.notes)
    assert any("it has 2 scores" in note and "first.score.json is taken" in note for note in folder.notes)


def test_a_tally_counts_what_counts_and_names_the_rest(fitted: FitRecord, tmp_path: Path) -> None:
    for number, flops in enumerate((3e18, 5e18, 3e19, 2e20, 3e20)):
        each = target(flops)
        found = predict(fitted, "seal", each)
        seal = found.write(tmp_path / f"{number}.json")
        began = BEFORE if number == 3 else AFTER
        scored = score(found, measured(float(law(flops)), each), began)
        if number < 4:
            scored.record(f"runs/{number}", seal).write(tmp_path / f"{number}.score.json")
    found_all = read_folder(tmp_path)
    assert len(found_all.scored) == 3
    assert [line.partition(": ")[2].split(":")[0] for line in found_all.notes] == ["does not count", "not scored yet"]
    ended = called("tally", tmp_path)
    assert ended.exit_code == 0, ended.output
    assert "1x to 3x" not in ended.output and "3x to 10x" in ended.output and "3 of 3" in ended.output


def test_the_commands_fit_predict_and_refuse(tmp_path: Path) -> None:
    rows = "".join(
        f"{flops},{law(flops) * (1 + 0.002 * (-1) ** k)}\n" for k, flops in enumerate(np.geomspace(1e15, 1e18, 9))
    )
    (tmp_path / "runs.csv").write_text("C,loss\n" + rows)
    fit_file, out = tmp_path / "fit.json", tmp_path / "prediction.json"
    ended = called("fit", tmp_path / "runs.csv", "--out", fit_file)
    assert ended.exit_code == 0, ended.output
    assert "L(C) = E + a / C^b: 9 runs of 9 sizes" in ended.output and "noise of one run" in ended.output
    instead = called("fit", tmp_path / "runs.csv", "--out", tmp_path / "runs.csv")
    assert instead.exit_code == 2 and "runs.csv is not a fit" in instead.output
    ended = called("predict", "--fit", fit_file, "--flops", "1e20", "--out", out)
    assert ended.exit_code == 0, ended.output
    assert "100 times the largest run" in ended.output and "sealed: " in ended.output
    again = called("predict", "--fit", fit_file, "--flops", "1e20", "--out", out)
    assert again.exit_code == 2 and "a sealed prediction is not replaced" in again.output
    for arguments, words in (
        (["--flops", "-1"], "--flops -1 is not a positive number"),
        ([], "give a config, or --flops, or --params and --tokens"),
        (["--flops", "1e10"], "is not larger than the largest run"),
    ):
        refused = called("predict", "--fit", fit_file, *arguments)
        assert refused.exit_code == 2 and words in refused.output
