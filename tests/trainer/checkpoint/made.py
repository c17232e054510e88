"""Small checkpoints that are made by hand, without a run."""

import os
from pathlib import Path

from foretrain.trainer.checkpoint.checksums import BLOCK_BYTES, ChecksumWriter
from foretrain.trainer.checkpoint.manifest import write_manifest
from foretrain.trainer.checkpoint.record import CheckpointRecord
from foretrain.trainer.run.folder import CHECKPOINTS, CONFIG_FILE

DATA = "__0_0.distcp"
DATA_BYTES = BLOCK_BYTES + 1000
"""Bytes of the file with checksums, without them: more than one block."""


def make_run(run_dir: Path, *steps: int) -> Path:
    """A run folder with sound checkpoints of these steps, each written one minute after the one before."""
    run_dir.mkdir(parents=True)
    (run_dir / CONFIG_FILE).write_text("seed: 1\n")
    for number, step in enumerate(steps):
        path = make_checkpoint(run_dir, step)
        os.utime(path, (60.0 * number, 60.0 * number))
    return run_dir


def make_checkpoint(run_dir: Path, step: int, *, has_checksums: bool = True, prefix: str = "") -> Path:
    """A checkpoint of a run; without checksums, as an earlier version wrote it. `prefix`: the start of its name."""
    path = run_dir / CHECKPOINTS / f"{prefix}step-{step:08d}"
    path.mkdir(parents=True)
    content = bytes(range(250)) * (DATA_BYTES // 250 + 1)
    if has_checksums:
        with ChecksumWriter(path / DATA) as file:
            file.write(content[:DATA_BYTES])
    else:
        (path / DATA).write_bytes(content[:DATA_BYTES])
    record = CheckpointRecord(step, 8 * step, seed=1, data_fingerprint="d", mixture_fingerprint="m", stage="s")
    record.write(path)
    (path / CONFIG_FILE).write_text("seed: 1\n")
    if has_checksums:
        write_manifest(path)
    return path


def damage(file: Path, place: int = BLOCK_BYTES + 10) -> None:
    """Change one byte of a file."""
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def names(run_dir: Path) -> list[str]:
    """The names of all folders beside the checkpoints of a run, and theirs."""
    return sorted(path.name for path in (run_dir / CHECKPOINTS).iterdir())
