"""The benchmark of laws of curves: its committed results are those of the code, and the document shows them."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.curves.momentum import MomentumLaw, areas, fit_momentum
from benchmarks.curves.published import FITTED, SIZES, published_curves
from benchmarks.curves.report import BEGIN, END, errors, holds, in_document
from foretrain.scaling.laws.curves.fit import Curve, fit_curves
from foretrain.scaling.laws.curves.schedule import Schedule
from tests.cli import ROOT

RECORDS = json.loads((ROOT / "benchmarks/results/curves.json").read_text())


def test_the_document_shows_the_committed_results() -> None:
    document = Path(ROOT, "docs/prediction.md").read_text()
    assert in_document(document, RECORDS) == document
    with pytest.raises(ValueError, match="has no place for the table"):
        in_document(document.replace(END, ""), RECORDS)
    other = document.replace(f"{BEGIN}\n\n|", f"{BEGIN}\n\n|x")
    assert other != document
    assert in_document(other, RECORDS) == document


def test_the_committed_results_hold_the_bar_for_all_sizes() -> None:
    judged = [each for each in RECORDS if each["law"] == "multi_power" and "wsdcon_9" in each["runs"]]
    assert {each["size"] for each in judged} == set(SIZES)
    assert all(map(holds, judged))


def test_the_committed_results_are_those_of_the_code() -> None:
    fitted = next(iter(FITTED))
    (record,) = (
        each for each in RECORDS if (each["size"], each["fitted"], each["law"]) == ("25M", fitted, "multi_power")
    )
    curves = published_curves("25M")
    law = fit_curves([curves[name] for name in FITTED[fitted]], num_starts=2).law
    for name, curve in curves.items():
        found = errors(law.loss(curve.schedule, curve.step_N), curve)
        assert found == pytest.approx(record["errors"][name], rel=0.02, abs=2e-5)


def test_the_drops_with_momentum_are_summed_as_the_paper_says() -> None:
    rate = np.array([0.0, 2.0, 2.0, 1.0, 1.0, 0.5])
    total, annealing = areas(Schedule(rate), np.array([2, 3, 4, 5]), 0.9)
    assert total.tolist() == [4.0, 5.0, 6.0, 6.5]
    assert annealing == pytest.approx([0.0, 1.0, 1.9, 1.9 + 0.81 + 0.5])


def test_a_fit_of_the_momentum_law_finds_the_law_that_made_the_curves() -> None:
    law, steps = MomentumLaw(2.5, 0.4, 0.5, 1.5, 0.99), np.arange(20, 1_000, 20)
    constant, cosine = np.full(1_000, 1e-3), 5e-4 * (1 + np.cos(np.pi * np.arange(1_000) / 1_000))
    curves = [Curve(rate, steps, law.loss(Schedule(rate), steps)) for rate in (constant, cosine)]
    found = fit_momentum(curves)
    assert found.decay == 0.99
    assert [found.L0, found.A, found.alpha, found.C] == pytest.approx([2.5, 0.4, 0.5, 1.5], rel=1e-3)
