"""A run that goes back to a checkpoint is accounted for, and raises no alarm of the other checks."""

from pathlib import Path

import pytest

from foretrain.configs.schema import ParallelConfig
from foretrain.trainer.goodput import facts
from foretrain.trainer.goodput.ledger import Ledger
from foretrain.trainer.run.folder import HANGS
from tests.conftest import RunOnRanks
from tests.plugins.planted import NAN
from tests.trainer.anomalies.test_policies import config, planted, train


def test_steps_that_a_rollback_takes_back_are_lost_steps_of_the_goodput(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    settings = config(tmp_path, corpus, 8, on_non_finite="rollback", checkpoint_every=3)
    train(ranks, planted(settings, step=6, fault=NAN))
    history = facts.read(tmp_path)
    ledger = Ledger(history)
    assert (ledger.num_starts, ledger.num_lost) == (1, 2)  # steps 4 and 5
    assert ledger.seconds["lost"] > 0
    before_s = sum(history[0].spent_s.values())
    assert ledger.life_s == pytest.approx(before_s + history[-1].at_s - history[0].at_s, rel=0.01)


@pytest.mark.long
@pytest.mark.parametrize("replay_every", [5, 100])
def test_replays_the_check_of_memory_and_the_watch_for_hangs_find_nothing_where_a_sound_run_goes_back(
    replay_every: int, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    watched = {"on_non_finite": "rollback", "checkpoint_every": 3, "check_memory": True}
    for name, every in (("replayed", replay_every), ("not replayed", 0)):
        settings = config(tmp_path / name, corpus, 8, ParallelConfig(dp=2), **watched, replay_every=every)
        records = train(ranks, planted(settings, step=6, fault=NAN))
        assert not list((tmp_path / name).glob(f"{HANGS}/*"))
        if every:
            replayed = records
    assert replayed == records
