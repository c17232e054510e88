"""What is printed about the trials of a study."""

import io

from rich.console import Console
from rich.table import Table

from foretrain.configs.load import load
from foretrain.scaling.trials.progress import TrialProgress
from foretrain.scaling.trials.trial import Trial

CONFIG = load("runs/dry_run", ["model.vocab_size=512"])
TRIALS = [Trial(CONFIG, {}, {}, 100, label=f"rung-{number}") for number in range(3)]


def printed_for(*failures: str) -> list[str]:
    """What is printed about trials that fail for these reasons."""
    console = Console(file=io.StringIO(), width=200)
    with TrialProgress(len(TRIALS), lambda *_: Table(), console=console) as progress:
        progress.plan(TRIALS, {})
        for trial, why in zip(TRIALS, failures, strict=False):
            progress.fail(trial, why)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_the_traceback_of_a_reason_is_shown_once_and_later_trials_name_the_first() -> None:
    traceback = "rank 0 failed\nTraceback (most recent call last):\nRuntimeError: no GPU"
    lines = printed_for(traceback, traceback, "rank 1 failed\nRuntimeError: another")
    assert [line for line in lines if "Traceback" in line] == ["Traceback (most recent call last):"]
    assert lines[4].endswith("FAILED (rung-1): as rung-0: RuntimeError: no GPU")
    assert lines[-1] == "RuntimeError: another"


def test_a_reason_of_one_line_is_shown_for_every_trial() -> None:
    lines = printed_for("config.yaml is missing", "config.yaml is missing")
    assert [line.partition("): ")[2] for line in lines[1:]] == ["config.yaml is missing"] * 2
