"""What a run of one start, or of several by hand, says of its time."""

import json
from pathlib import Path

import pytest

import foretrain
from foretrain.configs.schema import ParallelConfig
from foretrain.trainer.goodput import facts
from foretrain.trainer.goodput.ledger import Ledger
from foretrain.trainer.metrics import METRICS_FILE, read_metrics
from foretrain.trainer.run.rank import train_rank
from foretrain.trainer.run.setup import prepare_run
from tests.conftest import RunOnRanks
from tests.trainer.test_resume import NUM_STEPS, config


def test_a_sound_run_has_the_goodput_that_its_metrics_say(tmp_path: Path, corpus: Path, ranks: RunOnRanks) -> None:
    settings = config(tmp_path, corpus, ParallelConfig(), log_every=3)
    ranks(1, train_rank, prepare_run(settings))
    ledger = Ledger(facts.read(tmp_path))
    steps = [record for record in read_metrics(tmp_path / METRICS_FILE) if record["kind"] == "train"]
    good_s = [step["step_s"] - step["data_wait_s"] for step in steps]
    good_s[0] = min(good_s[:2])  # what the first step takes longer than the second is start-up
    assert ledger.goodput * ledger.life_s == pytest.approx(sum(good_s), rel=1e-3)
    assert (ledger.num_starts, ledger.num_lost) == (1, 0)
    spent = {cause for cause, seconds in ledger.seconds.items() if seconds > 1e-3}
    assert {"step", "start_up", "evaluation", "checkpoint"} <= spent
    assert not {"lost", "queue"} & spent
    assert [step["step"] for step in steps if "goodput" in step] == [3, 6, NUM_STEPS]


def test_starts_by_hand_share_one_ledger_and_lose_nothing_after_a_clean_stop(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    for stop in (3, None):
        ranks(1, train_rank, prepare_run(config(tmp_path, corpus, ParallelConfig(), stop_after=stop)))
    ledger = Ledger(facts.read(tmp_path))
    assert (ledger.num_starts, ledger.num_lost, ledger.seconds["lost"]) == (2, 0, 0.0)
    assert ledger.seconds["down"] > 0
    assert json.loads((tmp_path / facts.GOODPUT_FILE).read_text())["starts"] == 2


class Fails(foretrain.Callback):
    """Raises an error after step 3."""

    def after_step(self, trainer: foretrain.Trainer, step: foretrain.Step) -> None:
        if step.number == 3:
            raise RuntimeError("as planned")


def fail_after_step_3(run: foretrain.Run) -> str:
    """Train until the callback raises, and return what it raised."""
    with foretrain.process_groups(run) as groups:
        try:
            foretrain.Trainer(run, groups, callbacks=[Fails()]).fit()
        except RuntimeError as error:
            return str(error)
    return ""


def test_a_run_that_fails_has_an_account_of_all_its_steps(tmp_path: Path, corpus: Path, ranks: RunOnRanks) -> None:
    assert ranks(1, fail_after_step_3, prepare_run(config(tmp_path, corpus, ParallelConfig()))) == ["as planned"]
    history = facts.read(tmp_path)
    assert (history[-1].kind, history[-1].step) == ("end", 3)
    assert sum(fact.steps for fact in history) == 3


def train_with_a_full_disk_for_the_ledger(run: foretrain.Run) -> foretrain.Outcome:
    """Train, and have each line of the ledger fail as on a full disk."""
    with foretrain.process_groups(run) as groups:
        trainer = foretrain.Trainer(run, groups)
        (run.run_dir / facts.LEDGER_FILE).symlink_to("/dev/full")
        return trainer.fit()


def test_a_ledger_that_cannot_be_written_stops_no_run(tmp_path: Path, corpus: Path, ranks: RunOnRanks) -> None:
    run = prepare_run(config(tmp_path, corpus, ParallelConfig()))
    assert ranks(1, train_with_a_full_disk_for_the_ledger, run) == [foretrain.Outcome(NUM_STEPS, None)]
