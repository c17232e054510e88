"""Room on the disk for checkpoints: what one takes, and the refusal of a run that has no room for one."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from foretrain.configs.schema import Config
from foretrain.trainer.checkpoint.folders import folder_of
from foretrain.trainer.checkpoint.places import Place
from foretrain.trainer.checkpoint.remote.path import RemotePath
from foretrain.trainer.checkpoint.remote.requests import RemoteError
from foretrain.trainer.checkpoint.retention import Retention
from foretrain.trainer.model.table import num_params
from foretrain.trainer.optimizers.entry import entry_of
from foretrain.trainer.run.folder import checkpoints_of

GIB = 2**30


def checkpoint_bytes(config: Config) -> int:
    """Bytes of the tensors of a checkpoint: each parameter and its optimizer states in fp32, once for all ranks."""
    return 4 * num_params(config.model) * (1 + len(entry_of(config.optimizer).states))


def check_room(run_dir: Path, config: Config) -> str | None:
    """A warning if the disk has no room for all the checkpoints that a run has at the same time, else None.

    Nothing is known of the room on a server, so a small file is written there. Raises ValueError if there is no room
    for one checkpoint, or if that file may not be written, and RemoteError if the server does not answer. Other
    programs, and quotas that the file system does not report, may still fill the disk.
    """
    folder = checkpoints_of(run_dir, config.train.checkpoint_folder).place
    if isinstance(folder, RemotePath):
        _check_writable(folder)
        return None
    free, size = free_bytes(folder), checkpoint_bytes(config)
    if free < size:
        raise ValueError(
            f"a checkpoint has {size / GIB:.3f} GiB, and {folder} has {free / GIB:.3f} GiB free: free some, or set "
            "another run_dir or train.checkpoint_folder"
        )
    new = Retention.of(config.train).most(_planned_steps(config)) - len(folder_of(folder).complete())
    if free < new * size:
        train = config.train
        return (
            f"the run needs room for {new} more checkpoints of {size / GIB:.3f} GiB (train.keep_checkpoints = "
            f"{train.keep_checkpoints}, keep_every = {train.keep_every}, keep_best = {train.keep_best}), and {folder} "
            f"has {free / GIB:.3f} GiB free: free some, or keep fewer"
        )
    return None


def _planned_steps(config: Config) -> Sequence[int]:
    """The steps after which a run writes a checkpoint, without those that the time or a stop asks for."""
    train = config.train
    last = -(-train.num_tokens // (train.global_batch_size * config.model.seq_len))
    regular = range(train.checkpoint_every, last, train.checkpoint_every) if train.checkpoint_every else ()
    return [*regular, last]


def _check_writable(folder: RemotePath) -> None:
    probe = folder / "may-be-written"
    try:
        probe.write_bytes(b"written and removed when a run starts")
        probe.unlink()
    except RemoteError:
        raise  # a later start may succeed with the same settings
    except OSError as error:
        raise ValueError(f"train.checkpoint_folder = {folder} cannot be written ({error}): name another one") from error


def what_to_change(folder: Place, config: Config) -> str:
    """What a user can do after a checkpoint could not be written."""
    needed = f"A checkpoint has {checkpoint_bytes(config) / GIB:.3f} GiB"
    if not isinstance(folder, Path):
        return f"{needed}: see whether {folder} may be written and has room, or set another train.checkpoint_folder"
    return (
        f"{needed}, and {free_bytes(folder) / GIB:.3f} GiB were free when it failed: free some, or lower "
        "train.keep_checkpoints"
    )


def free_bytes(folder: Path) -> int:
    """Free bytes of the file system on which `folder` is, or will be made."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
    return shutil.disk_usage(there).free
