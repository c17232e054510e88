"""What users branch a run for: a cooldown of its stable phase, and another mixture from a step on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foretrain.configs.data import DataConfig, SourceConfig, StageConfig
from foretrain.configs.optimization import ScheduleConfig
from foretrain.configs.schema import Config, ParallelConfig
from foretrain.data_pipeline.prepare.build import prepare
from tests.conftest import RunOnRanks
from tests.trainer.test_origin import step_folder, steps
from tests.trainer.test_resume import NUM_STEPS, config, train

TOKENS_PER_STEP = 8 * 32
AT, END = 4, 8
"""The step from which a run branches, and the last step of the branch."""


@pytest.fixture
def words(corpus: Path, tmp_path: Path) -> Path:
    """A second corpus of the same tokenizer."""
    folder = tmp_path / "words"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.txt").write_text(f"{number} words and nothing else. " * (1 + number % 7))
    prepare([folder], folder / "corpus", tokenizer_path=corpus / "tokenizer.json", val_fraction=0.1)
    return folder / "corpus"


def parent_of(settings: Config) -> Config:
    """A run with a checkpoint of every step."""
    return replace(settings, train=replace(settings.train, checkpoint_every=1, keep_checkpoints=0))


def branch_of(parent: Config, run_dir: Path, **changes: Any) -> Config:
    """A run that continues another one from a step, up to END."""
    place = str(step_folder(Path(parent.run_dir), AT))
    options = replace(parent.train, branch_from=place, num_tokens=END * TOKENS_PER_STEP, checkpoint_every=0)
    return replace(parent, run_dir=str(run_dir), train=options, **changes)


def test_a_cooldown_of_a_run_in_its_stable_phase_lowers_the_rate_from_its_step_to_the_end(
    tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    parent = parent_of(config(tmp_path / "stable", corpus, ParallelConfig()))
    parent.schedule = ScheduleConfig(kind="constant", warmup_tokens=TOKENS_PER_STEP)
    train(ranks, parent)
    cooldown = replace(parent.schedule, decay_tokens=(END - AT) * TOKENS_PER_STEP, min_factor=0.0)
    train(ranks, branch_of(parent, tmp_path / "cooldown", schedule=cooldown))
    stable, cooled = steps(tmp_path / "stable"), steps(tmp_path / "cooldown")
    assert sorted(stable) == [*range(1, NUM_STEPS + 1)] and sorted(cooled) == [*range(AT + 1, END + 1)]
    assert cooled[AT + 1]["loss"] == stable[AT + 1]["loss"]  # the same weights, and the same samples
    peak = parent.optimizer.lr
    assert all(stable[step]["lr"] == peak for step in range(2, NUM_STEPS + 1))
    rates = [cooled[step]["lr"] / peak for step in range(AT + 1, END + 1)]
    falls = [before - after for before, after in zip([1.0, *rates], rates, strict=False)]
    assert falls == pytest.approx([1 / (END - AT)] * (END - AT), abs=1e-9) and rates[-1] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.long
def test_a_branch_with_another_mixture_has_the_curve_of_a_run_whose_mixture_changes_at_its_step(
    tmp_path: Path, corpus: Path, words: Path, ranks: RunOnRanks
) -> None:
    parent = parent_of(config(tmp_path / "sums", corpus, ParallelConfig()))
    parent.schedule = ScheduleConfig(kind="constant")
    parent.data = DataConfig(sources={"sums": SourceConfig(str(corpus), 1.0)}, mixture_block=16)
    train(ranks, parent)
    sources = {"sums": SourceConfig(str(corpus), 1.0), "words": SourceConfig(str(words), 0.0)}
    stages = {"anneal": StageConfig(AT * TOKENS_PER_STEP, {"words": 1.0, "sums": 0.0})}
    mixed = replace(parent.data, sources=sources, stages=stages)
    train(ranks, branch_of(parent, tmp_path / "branch", data=mixed))
    full = branch_of(parent, tmp_path / "full", data=mixed)
    train(ranks, replace(full, train=replace(full.train, branch_from=None)))
    expected = {step: metrics for step, metrics in steps(tmp_path / "full").items() if step > AT}
    assert steps(tmp_path / "branch") == expected
    assert steps(tmp_path / "branch")[AT + 1]["loss"] != steps(tmp_path / "sums")[AT + 1]["loss"]
