"""What counts as damage of a checkpoint, and what does not."""

import errno
import pickle
import traceback
from pathlib import Path
from typing import NoReturn

import pytest
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata

from foretrain.trainer.checkpoint import loading
from foretrain.trainer.checkpoint.checksums import DamagedError


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_a_file_that_cannot_be_read_now_is_not_called_damaged(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_to_read(OSError(number, "cannot be read now"), monkeypatch)
    with pytest.raises(OSError, match="cannot be read now"):
        loading.read_from(tmp_path, {})


def test_a_missing_file_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_to_read(FileNotFoundError(errno.ENOENT, "is missing"), monkeypatch)
    with pytest.raises(DamagedError, match="is missing"):
        loading.read_from(tmp_path, {})


def fail_to_read(failure: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every read of tensors fail in this way."""
    monkeypatch.setattr(loading, "metadata_bytes", lambda path: (pickle.dumps(Metadata({}, storage_data={})), False))

    def load(*_: object, **__: object) -> NoReturn:
        raise CheckpointException("read", {0: (failure, traceback.StackSummary())})

    monkeypatch.setattr(loading.dcp, "load", load)
