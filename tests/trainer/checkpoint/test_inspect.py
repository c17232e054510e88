"""The checkpoints of a run, as they are listed, verified and removed."""

import errno
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from foretrain.trainer.checkpoint import inspect
from foretrain.trainer.checkpoint.folders import DAMAGED, PARTIAL
from foretrain.trainer.checkpoint.inspect import Checkpoint, Soundness, check
from foretrain.trainer.checkpoint.inspect_view import format_size
from foretrain.trainer.checkpoint.manifest import MANIFEST
from foretrain.trainer.checkpoint.prune import prune
from foretrain.trainer.run.folder import CHECKPOINTS, CONFIG_FILE, RECORD
from foretrain.trainer.run.lock import InUseError, locked
from tests.cli import environment
from tests.trainer.checkpoint.made import DATA, DATA_BYTES, damage, make_checkpoint, make_run, names


def name(step: int, prefix: str = "") -> str:
    return f"{prefix}step-{step:08d}"


def listed(target: Path) -> list[Checkpoint]:
    return inspect.read_all(inspect.checkpoints_of(target))


# ---- list ----


def test_checkpoints_are_listed_oldest_first_with_what_they_are(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 20, 5, 100_000_000)
    make_checkpoint(run, 7, has_checksums=False)
    found = listed(run)
    assert [each.step for each in found] == [5, 7, 20, 100_000_000]
    assert [each.samples_consumed for each in found] == [40, 56, 160, 800_000_000]
    assert [each.has_checksums for each in found] == [True, False, True, True]
    assert [each.written_s for each in found if each.step != 7] == [60.0, 0.0, 120.0]
    for each in found:
        assert each.size_bytes == sum(path.stat().st_size for path in each.path.iterdir()) > DATA_BYTES


def test_what_is_no_complete_checkpoint_is_not_listed_as_one(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 5)
    for prefix in (DAMAGED, PARTIAL):
        make_checkpoint(run, 6, prefix=prefix)
    shutil.copytree(run / CHECKPOINTS / name(5), run / CHECKPOINTS / f"{name(5)}.copy")
    (run / CHECKPOINTS / "step-7").touch()
    assert [each.step for each in listed(run)] == [5]
    assert [path.name for path in inspect.leftovers(run, *inspect.LEFTOVERS)] == [name(6, PARTIAL), name(6, DAMAGED)]


def test_a_checkpoint_whose_record_is_damaged_is_still_listed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 5)
    (before,) = listed(run)
    for content in (b"{", b"\xff", b"[]"):
        (before.path / RECORD).write_bytes(content)
        (after,) = listed(run)
        assert after == replace(before, samples_consumed=None, size_bytes=after.size_bytes, written_s=after.written_s)


def test_a_checkpoint_that_disappears_while_it_is_read_is_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 5, 6)
    paths = inspect.checkpoints_of(run)
    shutil.rmtree(paths[0])
    assert [each.step for each in inspect.read_all(paths)] == [6]


def test_a_checkpoint_is_known_under_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", 5)
    shutil.copytree(run / CHECKPOINTS / name(5), tmp_path / "best")
    assert [each.step for each in listed(tmp_path / "best")] == [5]
    monkeypatch.chdir(run / CHECKPOINTS / name(5))
    assert [each.step for each in listed(Path())] == [5]
    (tmp_path / "best" / RECORD).unlink()
    assert [each.step for each in listed(tmp_path / "best")] == [None]


def test_a_folder_that_is_no_run_is_refused_with_what_to_give(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 5)
    with pytest.raises(ValueError, match=r"is no run.*give the run_dir"):
        listed(tmp_path)
    with pytest.raises(ValueError, match=r"no folder.*give the folder of a run"):
        listed(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=f"is no run.*give {run}$"):
        listed(run / CHECKPOINTS)


def test_sizes_are_in_the_unit_that_fits() -> None:
    assert [format_size(size) for size in (0, 2**30 - 2**20, 2**30, 5 * 2**29)] == [
        "0.000 MiB",
        "1023.000 MiB",
        "1.000 GiB",
        "2.500 GiB",
    ]


def test_listing_and_verifying_need_no_torch() -> None:
    code = "import sys, foretrain.trainer.checkpoint.prune, foretrain.trainer.checkpoint.inspect_view as _\n"
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True)


# ---- verify ----


def test_a_checkpoint_as_it_was_written_is_sound(tmp_path: Path) -> None:
    verdict = check(make_checkpoint(tmp_path, 5))
    assert (verdict.soundness, str(verdict)) == (Soundness.SOUND, f"{name(5)}: sound")


@pytest.mark.parametrize("file", [DATA, RECORD, CONFIG_FILE, MANIFEST])
def test_one_changed_byte_in_any_file_is_found_and_the_file_is_named(file: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path, 5)
    size = (checkpoint / file).stat().st_size
    for place in {0, size // 2, size - 1}:
        damage(checkpoint / file, place)
        verdict = check(checkpoint)
        assert verdict.soundness is Soundness.DAMAGED, place
        assert str(checkpoint / file) in verdict.text
        damage(checkpoint / file, place)
    assert check(checkpoint).soundness is Soundness.SOUND


def test_damage_in_a_large_file_is_located(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path, 5)
    damage(checkpoint / DATA)
    assert "bytes 1,048,576 to 1,049,576 are not those that were written" in check(checkpoint).text


@pytest.mark.parametrize("file", [DATA, RECORD, CONFIG_FILE, MANIFEST])
def test_a_file_that_is_missing_is_damage(file: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path, 5)
    (checkpoint / file).unlink()
    verdict = check(checkpoint)
    assert verdict.soundness is Soundness.DAMAGED
    assert f"{checkpoint / file} is missing" in verdict.text


def test_a_checkpoint_of_an_earlier_version_is_neither_sound_nor_damaged(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path, 5, has_checksums=False)
    verdict = check(checkpoint)
    assert verdict.soundness is Soundness.UNKNOWN
    assert str(verdict) == f"{name(5)}: has no checksums: written by an earlier version"
    (checkpoint / RECORD).write_text("{")
    assert check(checkpoint).soundness is Soundness.DAMAGED


def test_a_disk_that_cannot_read_a_file_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = make_checkpoint(tmp_path, 5)

    def fails(folder: Path, advance: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(folder / DATA))

    monkeypatch.setattr(inspect, "check_content", fails)
    verdict = check(checkpoint)
    assert verdict.soundness is Soundness.DAMAGED
    assert verdict.text == f"damaged: {checkpoint / DATA} cannot be read (Input/output error)"


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(folder: Path, advance: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder / DATA))

    monkeypatch.setattr(inspect, "check_content", fails)
    with pytest.raises(PermissionError):
        check(make_checkpoint(tmp_path, 5))


def test_a_checkpoint_that_the_run_removes_meanwhile_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = inspect.check_content

    def removed_first(folder: Path, advance: object) -> None:
        shutil.rmtree(folder)
        real(folder)

    monkeypatch.setattr(inspect, "check_content", removed_first)
    verdict = check(make_checkpoint(tmp_path, 5))
    assert (verdict.soundness, verdict.text) == (Soundness.UNKNOWN, "was removed while it was verified")


def test_progress_counts_every_byte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(make_checkpoint(tmp_path, 5), progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"verifying {name(5)}: 1.0 of 1.0 MB, ")


# ---- prune ----


def test_the_newest_and_the_multiples_are_kept_and_the_rest_is_removed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 5, 10, 15, 20, 25)
    sizes = {each.path.name: each.size_bytes for each in listed(run)}
    pruned = prune(run, keep=1, every=10)
    assert names(run) == [name(10), name(20), name(25)]
    assert pruned.sizes == {name(step): sizes[name(step)] for step in (5, 15)}
    assert pruned.notes == []
    assert prune(run, keep=3).sizes == {}


def test_a_dry_run_says_the_same_and_removes_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 5, 10)
    make_checkpoint(run, 15, prefix=PARTIAL)
    before = names(run)
    would = prune(run, keep=1, dry_run=True)
    assert names(run) == before
    assert prune(run, keep=1) == would
    assert list(would.sizes) == [name(15, PARTIAL), name(5)]


def test_the_newest_sound_checkpoint_is_kept_if_newer_ones_are_damaged(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 5, 10, 15, 20)
    for step in (15, 20):
        damage(run / CHECKPOINTS / name(step) / DATA)
    pruned = prune(run, keep=1)
    assert names(run) == [name(10), name(20)]
    assert [note.partition(":")[0] for note in pruned.notes[:2]] == [name(20), name(15)]
    assert pruned.notes[2:] == [f"{name(10)} is kept too: no newer checkpoint is known to be sound"]


def test_if_no_checkpoint_is_sound_none_is_removed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 5, 10)
    make_checkpoint(run, 15, prefix=PARTIAL)
    for step in (5, 10):
        damage(run / CHECKPOINTS / name(step) / DATA)
    with pytest.raises(ValueError, match=r"(?s)step-00000010: damaged.*none is removed: remove by hand"):
        prune(run, keep=1)
    assert names(run) == [name(15, PARTIAL), name(5), name(10)]


def test_checkpoints_of_an_earlier_version_can_be_removed_but_never_the_last_that_may_be_sound(tmp_path: Path) -> None:
    old = make_run(tmp_path / "old")
    for step in (5, 10):
        make_checkpoint(old, step, has_checksums=False)
    assert list(prune(old, keep=1).sizes) == [name(5)]

    mixed = make_run(tmp_path / "mixed", 5, 10)
    make_checkpoint(mixed, 15, has_checksums=False)
    damage(make_checkpoint(mixed, 20) / DATA)
    assert list(prune(mixed, keep=1).sizes) == [name(5)]
    assert names(mixed) == [name(10), name(15), name(20)]


def test_a_run_that_is_alive_keeps_all(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 5, 10)
    with locked(run), pytest.raises(InUseError, match=f"in use by process {os.getpid()}"):
        prune(run, keep=1)
    assert names(run) == [name(5), name(10)]


def test_leftovers_are_removed_and_damaged_ones_only_on_request(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 5)
    # A removal of this very checkpoint that was interrupted must not block the next one.
    make_checkpoint(run, 6, prefix=f"{PARTIAL}{DAMAGED}")
    for prefix in (PARTIAL, DAMAGED):
        make_checkpoint(run, 6, prefix=prefix)
    shutil.copytree(run / CHECKPOINTS / name(6, PARTIAL), run / CHECKPOINTS / name(4, PARTIAL))
    prune(run, keep=1)
    assert names(run) == [name(6, DAMAGED), name(5)]
    prune(run, keep=1, with_damaged=True)
    assert names(run) == [name(5)]


def test_a_removal_that_fails_leaves_no_part_that_looks_like_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", 5, 10)

    def fails(folder: Path) -> None:
        (folder / DATA).unlink()
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(folder))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", fails)
        with pytest.raises(OSError, match="Input/output"):
            prune(run, keep=1)
    assert [each.step for each in listed(run)] == [10]
    assert list(prune(run, keep=1).sizes) == [name(5, PARTIAL)]
    assert names(run) == [name(10)]


def test_a_link_to_a_checkpoint_elsewhere_is_removed_and_its_content_is_not(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 5, 10)
    elsewhere = tmp_path / "elsewhere"
    (run / CHECKPOINTS / name(5)).rename(elsewhere)
    (run / CHECKPOINTS / name(5)).symlink_to(elsewhere)
    assert prune(run, keep=1).sizes == {name(5): 0}
    assert names(run) == [name(10)]
    assert check(elsewhere).soundness is Soundness.SOUND


def test_a_number_that_would_remove_all_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 5)
    with pytest.raises(ValueError, match="--keep 0 must be at least 1"):
        prune(run, keep=0)
    with pytest.raises(ValueError, match="--every -1 must not be negative"):
        prune(run, keep=1, every=-1)
    with pytest.raises(ValueError, match="is one checkpoint: give the folder of its run"):
        prune(run / CHECKPOINTS / name(5), keep=1)
