"""`foretrain checkpoint ls|verify|prune` on the command line: what they accept, print and remove."""

import json
import shlex
from datetime import datetime
from pathlib import Path

import pytest

from foretrain.trainer.checkpoint.inspect import size_of
from foretrain.trainer.checkpoint.inspect_view import format_size
from foretrain.trainer.run.folder import CHECKPOINTS, CONFIG_FILE
from foretrain.trainer.run.lock import locked
from tests.cli import assert_refused, called
from tests.trainer.checkpoint.made import DATA, damage, make_checkpoint, make_run, names

BAD_INPUT = {
    "checkpoint ls nowhere": ("there is no folder nowhere", "run_dir"),
    "checkpoint ls .": (". is no run", CONFIG_FILE, "run_dir"),
    "checkpoint ls run/checkpoints": ("run/checkpoints is no run", "give "),
    "checkpoint verify nowhere": ("there is no folder nowhere", "run_dir"),
    "checkpoint prune nowhere --keep 1": ("there is no folder nowhere", "run_dir"),
    "checkpoint prune . --keep 1": (". is no run", "run_dir"),
    "checkpoint prune run --keep 0": ("--keep 0 must be at least 1",),
    "checkpoint prune run --keep 1 --every -5": ("--every -5 must not be negative",),
    "checkpoint prune run/checkpoints/step-00000010 --keep 1": ("is one checkpoint", "give the folder of its run"),
}
"""Command lines in the folder below, and what their messages must say."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder with the run `run`, which has checkpoints of 10, 20 and 1000 steps."""
    make_run(tmp_path / "run", 10, 20, 1000)
    return tmp_path


@pytest.mark.parametrize("line", BAD_INPUT)
def test_bad_input_is_reported_with_what_to_change_and_changes_no_file(line: str, folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    assert_refused(called(*shlex.split(line), cwd=folder), *BAD_INPUT[line])
    assert sorted(folder.rglob("*")) == before


def test_prune_needs_to_know_how_many_to_keep(folder: Path) -> None:
    ended = called("checkpoint", "prune", "run", cwd=folder)
    assert (ended.status, ended.out) == (2, "")
    assert "--keep" in ended.err


def test_ls_shows_a_row_for_each_checkpoint_and_a_line_for_each_leftover(folder: Path) -> None:
    for prefix in ("partial-", "damaged-"):
        make_checkpoint(folder / "run", 2000, prefix=prefix)
    make_checkpoint(folder / "run", 1500, has_checksums=False)
    ended = called("checkpoint", "ls", "run", cwd=folder)
    assert (ended.status, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert [word in lines[1] for word in ("step", "samples", "size", "written", "checksums")] == [True] * 5
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines[3:-3]]
    assert [row[:2] for row in rows] == [["10", "80"], ["20", "160"], ["1,000", "8,000"], ["1,500", "12,000"]]
    assert [row[4] for row in rows] == ["yes", "yes", "yes", "no"]
    assert rows[0][2] == format_size(size_of(folder / "run/checkpoints/step-00000010"))
    assert rows[1][3] == f"{datetime.fromtimestamp(60).astimezone():%Y-%m-%d %H:%M:%S}"
    assert lines[-2].startswith("partial-step-00002000: a save or a removal that is running or was interrupted; ")
    assert lines[-1].startswith("damaged-step-00002000: a checkpoint that was found damaged")


def test_ls_writes_a_json_object_for_each_checkpoint(folder: Path) -> None:
    make_checkpoint(folder / "run", 2000, prefix="partial-")
    ended = called("checkpoint", "ls", "run", "--json", cwd=folder)
    assert (ended.status, ended.err) == (0, "")
    found = [json.loads(line) for line in ended.out.splitlines()]
    size = sum(path.stat().st_size for path in (folder / "run/checkpoints/step-00000020").iterdir())
    assert [each["step"] for each in found] == [10, 20, 1000]
    assert found[1] == {
        "path": "run/checkpoints/step-00000020",
        "step": 20,
        "samples_consumed": 160,
        "size_bytes": size,
        "written": datetime.fromtimestamp(60).astimezone().isoformat(),
        "has_checksums": True,
    }


@pytest.mark.parametrize("verb", ["ls", "verify"])
def test_a_run_without_checkpoints_is_no_error(verb: str, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    ended = called("checkpoint", verb, "run", cwd=tmp_path)
    assert (ended.status, ended.out, ended.err) == (0, "run has no complete checkpoint\n", "")
    as_json = called("checkpoint", "ls", "run", "--json", cwd=tmp_path)
    assert (as_json.status, as_json.out) == (0, "")


def test_one_checkpoint_is_a_target_too(folder: Path) -> None:
    one = "run/checkpoints/step-00000020"
    shown = called("checkpoint", "ls", one, "--json", cwd=folder)
    assert [json.loads(line)["step"] for line in shown.out.splitlines()] == [20]
    assert called("checkpoint", "verify", one, cwd=folder).out == "step-00000020: sound\n"


def test_verify_prints_a_line_for_each_checkpoint_and_fails_if_one_is_damaged(folder: Path) -> None:
    make_checkpoint(folder / "run", 5, has_checksums=False)
    old = "step-00000005: has no checksums: written by an earlier version\n"
    sound = called("checkpoint", "verify", "run", cwd=folder)
    assert sound.status == 0
    assert sound.out == f"{old}step-00000010: sound\nstep-00000020: sound\nstep-00001000: sound\n"
    assert sound.err.count("verifying step-") == 3

    damage(folder / "run/checkpoints/step-00000020" / DATA)
    damaged = called("checkpoint", "verify", "run", cwd=folder)
    assert damaged.status == 1
    assert damaged.out.splitlines()[1::2] == ["step-00000010: sound", "step-00001000: sound"]
    where = f"run/checkpoints/step-00000020/{DATA}: bytes 1,048,576 to 1,049,576"
    assert damaged.out.splitlines()[2].startswith(f"step-00000020: damaged: {where}")


def test_prune_says_what_it_removes_and_how_much_room_that_gives(folder: Path) -> None:
    make_checkpoint(folder / "run", 2000, prefix="partial-")
    before = names(folder / "run")
    words = ("checkpoint", "prune", "run", "--keep", "1", "--every", "20")
    dry = called(*words, "--dry-run", cwd=folder)
    assert dry.status == 0
    removed = ("partial-step-00002000", "step-00000010")
    sizes = [size_of(folder / "run/checkpoints" / name) for name in removed]
    lines = [f"would remove {name}: {format_size(size)}" for name, size in zip(removed, sizes, strict=True)]
    assert dry.out.splitlines() == [*lines, f"this would give back {format_size(sum(sizes))}"]
    assert names(folder / "run") == before

    ended = called(*words, cwd=folder)
    assert ended.status == 0
    assert ended.out == dry.out.replace("would remove", "removed").replace("this would give", "this gave")
    assert names(folder / "run") == ["step-00000020", "step-00001000"]
    assert called(*words, cwd=folder).out == "nothing to remove\n"


def test_prune_keeps_the_newest_sound_checkpoint_and_says_so(folder: Path) -> None:
    damage(folder / "run/checkpoints/step-00001000" / DATA)
    make_checkpoint(folder / "run", 5, prefix="damaged-")
    ended = called("checkpoint", "prune", "run", "--keep", "1", "--damaged", cwd=folder)
    assert ended.status == 0
    assert ended.out.splitlines()[0].startswith(f"step-00001000: damaged: run/{CHECKPOINTS}/step-00001000/{DATA}")
    assert ended.out.splitlines()[1] == "step-00000020 is kept too: no newer checkpoint is known to be sound"
    assert names(folder / "run") == ["step-00000020", "step-00001000"]


def test_prune_is_refused_while_the_run_is_alive(folder: Path) -> None:
    with locked(folder / "run"):
        ended = called("checkpoint", "prune", str(folder / "run"), "--keep", "1", cwd=folder)
    assert_refused(ended, "is in use by process", "wait for it, stop it")
    assert len(names(folder / "run")) == 3
