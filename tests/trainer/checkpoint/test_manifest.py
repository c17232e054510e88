"""The list of a checkpoint's files shows every change of any of them."""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from foretrain.trainer.checkpoint import checksums
from foretrain.trainer.checkpoint.checksums import ChecksumWriter, DamagedError
from foretrain.trainer.checkpoint.manifest import MANIFEST, check_content, check_files, has_manifest, write_manifest
from foretrain.trainer.checkpoint.storage import METADATA
from tests.trainer.checkpoint.damages import damages, flipped, overwrite

DATA = "__0_0.distcp"
CHECKS = pytest.mark.parametrize("check", [check_files, check_content])

Check = Callable[[Path], None]


@pytest.fixture(scope="module", autouse=True)
def small_blocks() -> Iterator[None]:
    """Blocks of 64 bytes, so that small files have several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checksums, "BLOCK_BYTES", 64)
        yield


def write_checkpoint(folder: Path, seed: int) -> Path:
    """A small folder with the files of a checkpoint. Those of another seed have other bytes, and the same sizes."""
    rng = random.Random(seed)
    folder.mkdir()
    for name, size in ((DATA, 200), (METADATA, 100)):
        with ChecksumWriter(folder / name) as writer:
            writer.write(rng.randbytes(size))
    (folder / "run.json").write_text(f'{{"step": {seed}}}')
    (folder / "config.yaml").write_text(f"seed: {seed}\n")
    write_manifest(folder)
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint, to be damaged."""
    return write_checkpoint(tmp_path / "step-1", seed=1)


def names(folder: Path) -> list[str]:
    """The files of a checkpoint."""
    return sorted(path.name for path in folder.iterdir())


def is_damaged(path: Path, damaged: bytes, check: Check = check_content) -> bool:
    """Whether a check of the folder finds that one of its files has the bytes `damaged`. Restores the file."""
    content = path.read_bytes()
    overwrite(path, damaged)
    try:
        check(path.parent)
    except DamagedError as error:
        return str(path) in str(error)
    else:
        return False
    finally:
        overwrite(path, content)


@CHECKS
def test_a_checkpoint_that_was_copied_is_what_was_written(check: Check, checkpoint: Path) -> None:
    check(Path(shutil.copytree(checkpoint, checkpoint.with_name("copy"))))


@CHECKS
def test_a_missing_file_is_named(check: Check, checkpoint: Path) -> None:
    for name in names(checkpoint):
        moved = (checkpoint / name).rename(checkpoint.with_name("moved"))
        assert has_manifest(checkpoint)
        with pytest.raises(DamagedError, match=rf"{name} is missing"):
            check(checkpoint)
        moved.rename(checkpoint / name)


@CHECKS
def test_a_file_of_another_checkpoint_is_found_though_it_has_the_same_size(check: Check, checkpoint: Path) -> None:
    other = write_checkpoint(checkpoint.with_name("step-2"), seed=2)
    for name in names(checkpoint):
        content = (checkpoint / name).read_bytes()
        shutil.copyfile(other / name, checkpoint / name)
        assert name == MANIFEST or (checkpoint / name).stat().st_size == len(content)
        with pytest.raises(DamagedError):
            check(checkpoint)
        (checkpoint / name).write_bytes(content)


def missed_flips(checkpoint: Path, step: int) -> list[tuple[str, int]]:
    """The files and bits whose flip is not found, of each `step`-th bit of each file."""
    return [
        (name, bit)
        for name in names(checkpoint)
        for content in [(checkpoint / name).read_bytes()]
        for bit in range(0, 8 * len(content), step)
        if not is_damaged(checkpoint / name, flipped(content, bit))
    ]


def test_a_flip_in_every_byte_of_any_file_of_a_checkpoint_is_found(checkpoint: Path) -> None:
    assert missed_flips(checkpoint, step=7) == []


@pytest.mark.long
def test_every_flip_of_one_bit_in_any_file_of_a_checkpoint_is_found(checkpoint: Path) -> None:
    assert missed_flips(checkpoint, step=1) == []


def test_every_truncation_of_any_file_of_a_checkpoint_is_found(checkpoint: Path) -> None:
    for path in map(checkpoint.joinpath, names(checkpoint)):
        content = path.read_bytes()
        assert [size for size in range(len(content)) if not is_damaged(path, content[:size])] == []


def test_every_one_of_1000_random_damages_of_a_checkpoint_is_found(checkpoint: Path) -> None:
    paths = [checkpoint / name for name in names(checkpoint)]
    cases = [(path, each) for path in paths for each in damages(path.read_bytes(), 1000 // len(paths), seed=3)]
    assert len(cases) == 1000
    assert [(path.name, each) for path, each in cases if not is_damaged(path, each)] == []


def test_space_that_was_added_to_the_list_is_found(checkpoint: Path) -> None:
    content = (checkpoint / MANIFEST).read_bytes()
    assert is_damaged(checkpoint / MANIFEST, content + b"\n")


def test_a_check_of_the_files_alone_finds_all_but_flips_of_content_that_has_checksums(checkpoint: Path) -> None:
    """A quick look is not enough: the content has to be read."""
    content = (checkpoint / DATA).read_bytes()
    assert not is_damaged(checkpoint / DATA, flipped(content, 0), check_files)
    assert is_damaged(checkpoint / DATA, flipped(content, 0), check_content)
    assert is_damaged(checkpoint / DATA, flipped(content, 8 * len(content) - 1), check_files)


def test_an_old_checkpoint_has_no_list(tmp_path: Path) -> None:
    for name in (DATA, METADATA, "run.json", "config.yaml"):
        (tmp_path / name).write_bytes(random.Random(4).randbytes(100))
    assert not has_manifest(tmp_path)
