"""A process that is killed while it saves loses no checkpoint, and leaves none that is incomplete."""

import random
from pathlib import Path

import pytest

from foretrain.trainer.checkpoint.files import Checkpoints
from tests.conftest import RunOnRanks
from tests.trainer.checkpoint import killed
from tests.trainer.checkpoint.killed import Place, Steps, attempts, steps_of_a_save

NUM_RANDOM = 200
WORDS = ("__0_0.distcp", "__0.metadata", ".metadata", "run.json", "config.yaml", "tokenizer.json", "checksums.json")
"""What the names of the written files contain."""


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory, ranks: RunOnRanks) -> Steps:
    """What a save does, in the order in which it does it."""
    found: Steps = ranks(1, steps_of_a_save, tmp_path_factory.mktemp("steps") / "run")[0]
    return found


def each_event(steps: Steps) -> list[Place]:
    """The place before each event."""
    return [Place("event", number) for number in range(len(steps.events))]


def test_the_places_of_the_kills_are_all_the_steps_of_a_save(steps: Steps) -> None:
    """The folder gets its name after its files were written and the disk was waited for, and the oldest goes last."""
    opened = [event for event in steps.events if event.startswith("open ")]
    assert len(opened) == len(WORDS) and all(word in event for word, event in zip(WORDS, opened, strict=True))
    named = next(number for number, event in enumerate(steps.events) if event.startswith("os.rename partial-step-"))
    removed = next(number for number, event in enumerate(steps.events) if event.startswith("os.rename step-"))
    assert max(map(steps.events.index, opened)) < named < removed
    assert steps.events[named - 1] == steps.events[named + 1] == "fsync"
    assert all(event.startswith(("os.remove ", "os.rmdir ")) for event in steps.events[removed + 2 :])
    assert steps.num_bytes > 100_000


def test_a_kill_at_some_steps_of_a_save_loses_no_checkpoint(steps: Steps, tmp_path: Path, ranks: RunOnRanks) -> None:
    places = [Place("byte", steps.num_bytes // 2), *each_event(steps)[3::9]]
    assert ranks(1, attempts, tmp_path / "run", places) == [""]


@pytest.mark.long
def test_a_kill_at_any_step_of_a_save_loses_no_checkpoint(steps: Steps, tmp_path: Path, ranks: RunOnRanks) -> None:
    assert ranks(1, attempts, tmp_path / "run", each_event(steps)) == [""]


@pytest.mark.long
def test_a_kill_at_any_of_200_random_bytes_of_a_save_loses_no_checkpoint(
    steps: Steps, tmp_path: Path, ranks: RunOnRanks
) -> None:
    """Half of the kills are at the last 5% of the bytes, where all the small files are."""
    rng = random.Random(1)
    firsts = [rng.choice([0, steps.num_bytes * 95 // 100]) for _ in range(NUM_RANDOM)]
    places = [Place("byte", rng.randrange(first, steps.num_bytes - 100)) for first in firsts]
    assert ranks(1, attempts, tmp_path / "run", places) == [""]


@pytest.mark.parametrize(
    ("bug", "finding"),
    [
        (killed.RenamesTooSoon, "checksums.json is missing"),
        pytest.param(killed.RemovesTooSoon, "step 1000 is lost", marks=pytest.mark.long),
        pytest.param(killed.RemovesUnderItsName, "is missing", marks=pytest.mark.long),
        pytest.param(killed.WritesAgain, "config.yaml is missing", marks=pytest.mark.long),
        pytest.param(killed.KeepsLeftovers, "leftovers are still there", marks=pytest.mark.long),
    ],
)
def test_a_planted_bug_is_found_by_kills(
    bug: type[Checkpoints], finding: str, steps: Steps, tmp_path: Path, ranks: RunOnRanks
) -> None:
    places = [*each_event(steps)[8::4], Place("event", len(steps.events) + 1)]
    (found,) = ranks(1, attempts, tmp_path / "run", places, bug)
    assert finding in found
