"""The goodput of a run in words, as metrics, and as a record."""

import json

import pytest

from foretrain.trainer.goodput.facts import Fact
from foretrain.trainer.goodput.ledger import Ledger
from foretrain.trainer.goodput.view import as_metrics, as_record, in_words

LEDGER = Ledger(
    [
        Fact("launch", 0.0),
        Fact("begin", 40.0, step=0),
        Fact("steps", 950.0, step=100, steps=100, spent_s={"step": 900.0, "evaluation": 10.0}),
        Fact("begin", 950.0, step=90),
        Fact("end", 1000.0, step=95, steps=5, spent_s={"step": 49.9, "checkpoint": 0.1}),
    ]
)


def test_the_line_has_the_goodput_first_and_then_the_causes_of_the_rest_by_their_size() -> None:
    assert in_words(LEDGER) == "86.0% of 0:16:40 in 2 starts: 9.0% 10 lost steps, 4.0% start-up, 1.0% evaluations"


def test_a_run_without_facts_has_no_line() -> None:
    assert in_words(Ledger()) == ""


def test_the_metrics_are_shares_that_add_up_to_one() -> None:
    metrics = as_metrics(LEDGER.shares)
    assert metrics["goodput"] == pytest.approx(0.8599)
    assert metrics["badput/lost"] == pytest.approx(0.09)
    assert sum(metrics.values()) == pytest.approx(1.0)


def test_the_record_has_the_seconds_of_every_cause() -> None:
    record = json.loads(json.dumps(as_record(LEDGER)))
    assert (record["goodput"], record["life_s"], record["lost_steps"], record["starts"]) == (0.8599, 1000.0, 10, 2)
    assert sum(record["seconds"].values()) == 1000.0
