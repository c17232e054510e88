"""Callbacks and sinks from outside the packages, and a Trainer that is used from Python."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import foretrain
from foretrain.configs.schema import Config, ParallelConfig
from foretrain.trainer.metrics import METRICS_FILE, read_metrics
from foretrain.trainer.run.rank import train_rank
from foretrain.trainer.run.setup import prepare_run
from tests.conftest import RunOnRanks
from tests.trainer.test_resume import NUM_STEPS, config, curve

LAYOUTS = {"one process": ParallelConfig(), "tp=2 pp=2": ParallelConfig(tp=2, pp=2)}


def with_plugin(plain: Config) -> Config:
    train = replace(
        plain.train, callbacks=["log_hooks"], sinks=["one_file"], checkpoint_in_background=False
    )  # in the background, a checkpoint is complete some steps later
    return replace(plain, plugins=["tests.plugins.callbacks"], train=train)


@pytest.mark.parametrize("layout", ["one process", pytest.param("tp=2 pp=2", marks=pytest.mark.long)])
def test_a_callback_and_a_sink_from_outside_act_at_every_hook_on_every_rank_and_resume(
    layout: str, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    plain = config(tmp_path / "plain", corpus, LAYOUTS[layout])
    ranks(prepare_run(plain).layout.world_size, train_rank, prepare_run(plain))
    settings = with_plugin(config(tmp_path / "run", corpus, LAYOUTS[layout]))
    world_size = prepare_run(settings).layout.world_size
    for _ in range(2):  # the callback stops the run after step 5, so a second start trains the rest
        ranks(world_size, train_rank, prepare_run(settings))

    expected = """on_fit_start 0
on_step 1
after_step 1
on_step 2
after_step 2
on_evaluation 2 {0}
on_checkpoint step-00000002
on_step 3
after_step 3
on_step 4
after_step 4
on_evaluation 4 {1}
on_step 5
after_step 5
on_checkpoint step-00000005
on_fit_end 5 callback
on_close
on_fit_start 5
on_step 6
after_step 6
on_evaluation 6 {2}
on_step 7
after_step 7
on_evaluation 7 {3}
on_checkpoint step-00000007
on_fit_end 7 None
on_close
"""
    records = read_metrics(tmp_path / "run" / METRICS_FILE)
    val_losses = [record["val_loss"] for record in records if record["kind"] == "eval"]
    for rank in range(world_size):
        assert (tmp_path / "run" / f"hooks-{rank}.txt").read_text() == expected.format(*val_losses)

    steps = [record for record in records if record["kind"] == "train"]
    assert {record["sum_of_ranks"] for record in steps} == {sum(range(1, world_size + 1))}
    received = [json.loads((tmp_path / "run" / f"session-from-{start}.json").read_text()) for start in (0, 5)]
    reported = ["message", *2 * ["step", "step", "evaluation"], "step", "message"]
    assert [kind for kind, *_ in received[0]] == reported
    assert [what[1] for session in received for what in session if what[0] == "step"] == [
        {name: value for name, value in record.items() if name != "kind"} for record in steps
    ]
    assert [{**record, "sum_of_ranks": 0} for record in curve(tmp_path / "run")] == [
        {**record, "sum_of_ranks": 0} for record in curve(tmp_path / "plain")
    ], "the callback changed the curve"


def test_an_unknown_callback_is_refused_before_a_process_starts(tmp_path: Path, corpus: Path) -> None:
    settings = config(tmp_path, corpus, ParallelConfig(), callbacks=["log_hook"])
    with pytest.raises(ValueError, match=r"train\.callbacks: there is no callback named 'log_hook'"):
        prepare_run(settings)


def fit_twice_from_python(run: foretrain.Run) -> dict[str, Any]:
    """Fit as a user's program does, with a signal on the way, and return what it left in the process."""
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGUSR2)}

    class StopMyself(foretrain.Callback):
        def on_step(self, trainer: foretrain.Trainer, step: foretrain.Step) -> None:
            if step.number == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    with foretrain.process_groups(run) as groups:
        outcome = foretrain.Trainer(run, groups, callbacks=[StopMyself()]).fit()
        again = foretrain.Trainer(foretrain.prepare_run(run.config), groups).fit()
    restored = {signum: signal.getsignal(signum) for signum in handlers} == handlers
    return {"outcome": outcome, "again": again, "restored": restored}


def test_fit_returns_an_outcome_and_restores_signal_handlers(tmp_path: Path, corpus: Path, ranks: RunOnRanks) -> None:
    (found,) = ranks(1, fit_twice_from_python, prepare_run(config(tmp_path, corpus, ParallelConfig())))
    # The signal arrives after step 3 was counted, so the ranks agree on it after step 4.
    assert found["outcome"] == foretrain.Outcome(4, "signal")
    assert found["again"] == foretrain.Outcome(NUM_STEPS, None) and found["again"].is_complete
    assert found["restored"]
