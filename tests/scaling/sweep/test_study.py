"""How a sweep handles the ends of its trials: rungs, the best of each shape, the picture and the progress."""

import itertools
import json
import math
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from foretrain.configs import load as configs
from foretrain.configs.schema import Config
from foretrain.files import write_atomically
from foretrain.scaling.records import RESULTS_FILE
from foretrain.scaling.sweep import plot, summary
from foretrain.scaling.sweep.plan import Ask
from foretrain.scaling.sweep.progress import SweepProgress, best_table
from foretrain.scaling.sweep.report import print_end
from foretrain.scaling.sweep.run import SweepPlan, make_plan, open_sweep
from foretrain.scaling.trials.record import OUTCOME_FILE, Outcome, recorded, trial_config
from foretrain.scaling.trials.runner import TrialEnd
from foretrain.trainer.run.exit_status import EXIT_DONE, EXIT_FAILED

RATES = "optimizer.lr=2^-9..2^-1"
BEST = -5
"""log2 of the best rate; an octave away the loss is 0.1 higher."""


def loss_of(config: Config, best: float = BEST) -> float:
    return 2.0 + 0.1 * (math.log2(config.optimizer.lr) - best) ** 2 + 0.001 * config.train.seed


@dataclass
class Pure:
    """Runs trials without training: their loss is a parabola over the learning rate."""

    fails: float | None = None
    """The trial of this learning rate."""
    stopped_by: int | None = None
    outlives_stop: bool = False
    ran: list[Path] = field(default_factory=list)

    def run(self, folders: Sequence[Path]) -> Iterator[TrialEnd]:
        for folder in reversed(folders):  # as they end is not as they were planned
            config = trial_config(folder)
            self.ran.append(folder)
            if config.optimizer.lr == self.fails:
                yield TrialEnd(folder, "it fell over")
                continue
            diverged = config.optimizer.lr > 0.2
            outcome = Outcome("diverged", diverged_at=7) if diverged else Outcome("finished", loss_of(config), 3.0)
            write_atomically(folder / OUTCOME_FILE, json.dumps(asdict(outcome)))
            yield TrialEnd(folder)


def plan(corpus: Path, out: Path, **asked: object) -> SweepPlan:
    overrides = [f"data.path={corpus}", "model.vocab_size=300"]
    ask = Ask(**{"over": (RATES,), **asked})  # type: ignore[arg-type]
    return make_plan(ask, lambda more: configs.load("runs/dry_run", [*overrides, *more]), out)


def run(made: SweepPlan, out: Path, runner: Pure) -> tuple[int, str, list[dict]]:
    """Exit status, what was shown, and the results."""
    console = Console(file=StringIO(), width=160)
    with open_sweep(made, out) as sweep, SweepProgress(made.num_trials, console) as progress:
        status = sweep.run(runner, progress)
        print_end(sweep, status, console)
    assert isinstance(console.file, StringIO)
    return status, console.file.getvalue(), [json.loads(line) for line in (out / RESULTS_FILE).open()]


def test_results_are_in_the_order_of_the_plan_whatever_the_order_of_ends(corpus: Path, tmp_path: Path) -> None:
    made = plan(corpus, tmp_path, widths=(64, 128), seeds=(0, 1))
    status, shown, found = run(made, tmp_path, Pure())
    assert status == EXIT_DONE
    assert [line["trial"] for line in found] == [trial.key for trial in made.first]
    assert [line["status"] for line in found if line["values"]["optimizer.lr"] > 0.2] == ["diverged"] * 8
    assert "36/36" in shown and "8 of 36" not in shown and "4 of 18" in shown
    assert shown.count("2^-5") >= 2


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_the_best_of_each_shape_so_far(corpus: Path, tmp_path: Path) -> None:
    trials = plan(corpus, tmp_path, widths=(64, 128)).first
    console = Console(file=Terminal(), width=100, force_terminal=True)
    with SweepProgress(len(trials), console) as progress:
        progress.plan(trials, {})
        for trial in trials[:9]:
            progress.end(trial, Outcome("finished", loss_of(trial.config)))
    assert isinstance(console.file, Terminal)
    last = console.file.getvalue().rpartition("trials 9/18")[2]
    assert "best optimizer.lr" in last and "2^-5" in last and " left" in last


def test_nothing_is_run_twice(corpus: Path, tmp_path: Path) -> None:
    made, again = plan(corpus, tmp_path), Pure()
    before = run(made, tmp_path, Pure())
    after = run(plan(corpus, tmp_path, widths=(128,)), tmp_path, again)
    assert again.ran == []
    assert after[2] == before[2]
    assert "9 trials, 9 of them are done" in after[1]


@pytest.mark.parametrize(
    ("asked", "every", "at_least"),
    [({"over": ("optimizer.lr=2^-6",)}, 3, 7), pytest.param({"search": "halving"}, 61, 2, marks=pytest.mark.long)],
    ids=["grid", "halving"],
)
def test_a_sweep_killed_at_any_touch_of_its_files_ends_with_the_same_bytes(
    corpus: Path, tmp_path: Path, asked: dict[str, object], every: int, at_least: int
) -> None:
    made = plan(corpus, tmp_path, **asked)
    run(made, tmp_path / "complete", Pure())
    expected = (tmp_path / "complete" / RESULTS_FILE).read_bytes()
    for moment in itertools.count(step=every):
        out = tmp_path / f"killed-{moment}"
        if not is_killed(made, out, moment):
            break
        assert run(made, out, Pure())[0] == EXIT_DONE
        assert (out / RESULTS_FILE).read_bytes() == expected, moment
    assert moment >= at_least * every


def is_killed(made: SweepPlan, out: Path, moment: int) -> bool:
    """Run a sweep in a process that dies at this moment, before it touches a file or with the file cut to nothing.

    False where the sweep had ended by then.
    """
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, KILLED)
        return status == KILLED
    moments = itertools.count()

    def is_now() -> bool:
        return next(moments) == moment

    def watch(event: str, arguments: tuple) -> None:
        touches = event in TOUCHES and str(arguments[0]).startswith(str(out))
        writes = touches and (event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if writes and is_now():
            os._exit(KILLED)
        if writes and event == "open" and arguments[2] & os.O_TRUNC and is_now():
            Path(arguments[0]).write_bytes(b"")
            os._exit(KILLED)

    try:
        sys.addaudithook(watch)
        run(made, out, Pure())
        os._exit(0)
    finally:  # it must not return into the test
        traceback.print_exc()
        os._exit(1)


KILLED = 9
TOUCHES = ("open", "os.mkdir", "os.rename", "os.remove")


def test_a_failure_costs_no_other_trial(corpus: Path, tmp_path: Path) -> None:
    status, shown, found = run(plan(corpus, tmp_path), tmp_path, Pure(fails=2**-5))
    assert status == EXIT_FAILED
    assert len(found) == 8
    assert "FAILED" in shown and "it fell over" in shown and "the same command tries them again" in shown
    again = Pure()
    assert run(plan(corpus, tmp_path), tmp_path, again)[0] == EXIT_DONE
    assert len(again.ran) == 1


@pytest.mark.long
def test_halving_gives_the_best_third_of_each_shape_three_times_the_tokens(corpus: Path, tmp_path: Path) -> None:
    made = plan(corpus, tmp_path, search="halving", widths=(64, 128))
    status, shown, found = run(made, tmp_path, Pure())
    assert (status, made.num_trials, len(found)) == (EXIT_DONE, 18 + 6, 24)
    assert "24/24" in shown
    rungs, final = found[:18], found[18:]
    assert {line["budget_tokens"] for line in rungs} == {333_333}
    assert not [line for line in final if "budget_tokens" in line]
    assert {line["num_tokens"] for line in found} == {1_000_000}
    assert [(line["d_model"], math.log2(line["values"]["optimizer.lr"])) for line in final] == [
        (width, exponent) for width in (64, 128) for exponent in (-6, -5, -4)
    ]


@pytest.mark.long
def test_a_rung_is_resumed_as_it_was(corpus: Path, tmp_path: Path) -> None:
    made = plan(corpus, tmp_path, search="halving")
    _, _, found = run(made, tmp_path, Pure())
    again = Pure()
    assert run(made, tmp_path, again)[2] == found
    assert again.ran == []
    # And what a grid needs of it is there.
    run(plan(corpus, tmp_path), tmp_path, again)
    assert len(again.ran) == 9 - 3


def test_the_corpus_of_a_sweep_may_move_and_may_not_change(corpus: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.symlink_to(corpus)
    here, there = plan(corpus, tmp_path), plan(moved, tmp_path)
    assert [trial.key for trial in here.first] == [trial.key for trial in there.first]
    assert here.first[0].fingerprints[""]


def test_a_point_with_a_seed_that_diverged_is_never_the_best(corpus: Path, tmp_path: Path) -> None:
    trials = plan(corpus, tmp_path, seeds=(0, 1)).first
    found = {trial.key: Outcome("finished", loss_of(trial.config)) for trial in trials}
    (best,) = summary.best(summary.points(trials, found)).values()
    assert best is not None and best.values["optimizer.lr"] == 2**BEST
    assert best.loss == pytest.approx(2.0005) and best.spread == pytest.approx(0.001)
    (spoilt,) = [trial for trial in trials if trial.values["optimizer.lr"] == 2**BEST and trial.seed == 1]
    found[spoilt.key] = Outcome("diverged", diverged_at=3)
    (best,) = summary.best(summary.points(trials, found)).values()
    assert best is not None and best.values["optimizer.lr"] != 2**BEST
    everything = {trial.key: Outcome("diverged", diverged_at=3) for trial in trials}
    assert list(summary.best(summary.points(trials, everything)).values()) == [None]


def test_a_best_value_at_the_edge_of_the_tried_values_is_marked(corpus: Path, tmp_path: Path) -> None:
    trials = plan(corpus, tmp_path).first

    def shown(best: float) -> str:
        console = Console(file=StringIO(), width=120)
        found = {trial.key: Outcome("finished", loss_of(trial.config, best)) for trial in trials}
        console.print(best_table(trials, found))
        assert isinstance(console.file, StringIO)
        return console.file.getvalue()

    assert "2^-9 (at the edge)" in shown(-12) and "2^-9 (at the edge)" in shown(-9)
    assert "edge" not in shown(-5)


@pytest.mark.filterwarnings("error")  # matplotlib warns if something does not fit
@pytest.mark.parametrize(
    "asked",
    [
        pytest.param({"widths": (64, 128)}, marks=pytest.mark.long),
        {"depths": (1, 2)},
        pytest.param({"widths": (64, 128), "depths": (1, 2, 4, 8), "seeds": (0, 1)}, marks=pytest.mark.long),
        {"over": ("optimizer.lr=1e-3,2e-3", "optimizer.weight_decay=0..0.2:0.1")},
        {"over": ("optimizer.beta1=0..0.9:0.3",)},
    ],
)
def test_the_picture_shows_every_kind_of_sweep(asked: dict, corpus: Path, tmp_path: Path) -> None:
    trials = plan(corpus, tmp_path, **asked).first
    found = {trial.key: Outcome("finished", loss_of(trial.config)) for trial in trials[1:]}
    found[trials[0].key] = Outcome("diverged", diverged_at=1)
    assert plot.draw(summary.points(trials, found), tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_sweep_without_results_has_no_picture(corpus: Path, tmp_path: Path) -> None:
    trials = plan(corpus, tmp_path).first
    everything = {trial.key: Outcome("diverged", diverged_at=3) for trial in trials}
    words = plan(corpus, tmp_path, over=("schedule.kind=cosine,linear",)).first
    for chosen, found in (
        (trials, {}),
        (trials, everything),
        (words, {trial.key: Outcome("finished", 1.0) for trial in words}),
    ):
        assert not plot.draw(summary.points(chosen, found), tmp_path / "loss.png")


def test_an_outcome_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert recorded(tmp_path) is None
    outcome = Outcome("finished", 1 / 3, 2 / 3)
    write_atomically(tmp_path / OUTCOME_FILE, json.dumps(asdict(outcome)))
    assert recorded(tmp_path) == outcome


def test_a_folder_of_checkpoints_for_one_run_is_refused(tmp_path: Path) -> None:
    setting = "train.checkpoint_folder=s3://bucket/run"
    with pytest.raises(ValueError, match=r"train\.checkpoint_folder is for one run, and a sweep has many"):
        make_plan(Ask(over=(RATES,)), lambda more: configs.load("runs/dry_run", [setting, *more]), tmp_path)
