"""The checkpoint of another run from which a new run starts: `train.init_from` and `train.branch_from`.

Plain checks without torch. Raises ValueError, which says what to change, for a checkpoint that does not fit.
"""

import json
from collections.abc import Sequence

from foretrain.configs import load as configs
from foretrain.configs.schema import Config
from foretrain.data_pipeline.corpus.manifest import TOKENIZER
from foretrain.data_pipeline.stream.data import Data
from foretrain.trainer.checkpoint.checksums import DamagedError
from foretrain.trainer.checkpoint.folders import folder_of
from foretrain.trainer.checkpoint.manifest import check_files, has_manifest
from foretrain.trainer.checkpoint.places import Place, place_of
from foretrain.trainer.checkpoint.record import CheckpointRecord, config_of
from foretrain.trainer.optimizers.entry import entry_of
from foretrain.trainer.run.folder import RECORD, newest_checkpoint

_SAME_MODEL = ("model.", "mup.")
"""Settings without which the weights would mean something else."""
_SAME_STEPS = ("train.global_batch_size", "optimizer.kind", "optimizer.options")
"""Settings without which the number of a step, or the optimizer's state, would mean something else."""
_NO_MATTER = ("model.name", "mup.evidence")
_NO_IDS = ("post_processor", "truncation", "padding")
"""Fields of a tokenizer.json that change no id: texts are encoded without added tokens, and not cut or padded."""


def find(place: str, setting: str) -> Place:
    """The checkpoint that a setting names: a checkpoint, or a run, of which the newest is meant.

    On a server: a checkpoint, or a folder of them.
    """
    folder = place_of(place)
    if not folder.is_dir():
        raise ValueError(f"{setting} = {place}: there is no such folder; name a run folder or a checkpoint")
    checkpoint: Place | None = folder if (folder / RECORD).is_file() else newest_checkpoint(folder)
    if checkpoint == folder and not folder_of(folder.parent).is_complete(folder):
        raise ValueError(f"{setting} = {place} is not complete: name another checkpoint")
    if checkpoint is None:
        raise ValueError(f"{setting} = {place} has no checkpoint: name another run, or train that one first")
    try:
        if has_manifest(checkpoint):
            check_files(checkpoint)
    except DamagedError as error:
        raise ValueError(f"{setting} = {place}: {error}: name another checkpoint") from error
    return checkpoint


def check_weights(checkpoint: Place, setting: str, config: Config, data: Data) -> None:
    """Raise ValueError unless a run of `config` on `data` can start from the weights of a checkpoint."""
    _check_same(checkpoint, setting, config, _SAME_MODEL)
    written = checkpoint / TOKENIZER
    if written.is_file() and not give_same_ids(written.read_bytes(), data.any_stream.read_tokenizer()):
        raise ValueError(
            f"{setting}: {checkpoint} was trained with another tokenizer than that of the data, so that its weights "
            f"stand for other tokens: prepare the data with --tokenizer {written}"
        )


def check_state(checkpoint: Place, setting: str, config: Config) -> None:
    """Raise ValueError unless the optimizer of `config` can continue from the states in a checkpoint."""
    check_has_optimizer(checkpoint)
    _check_same(checkpoint, setting, config, ("optimizer.kind", "optimizer.options"))
    states = entry_of(config_of(checkpoint).optimizer).states
    if states != entry_of(config.optimizer).states:
        raise ValueError(f"{setting}: {checkpoint} has the states {', '.join(states)} of another optimizer")


def check_has_optimizer(checkpoint: Place) -> None:
    """Raise ValueError for a checkpoint that no run can continue, since it has weights only."""
    if not CheckpointRecord.read(checkpoint).has_optimizer:
        raise ValueError(
            f"{checkpoint} is an imported model, without the state of an optimizer: start a new run from its weights, "
            f"with train.init_from={checkpoint}, train.init_optimizer=false and another run_dir"
        )


def check_branch(checkpoint: Place, setting: str, config: Config, data: Data) -> None:
    """Raise ValueError unless a run of `config` can continue the run of a checkpoint from its step."""
    check_weights(checkpoint, setting, config, data)
    check_state(checkpoint, setting, config)
    _check_same(checkpoint, setting, config, _SAME_STEPS)


def give_same_ids(tokenizer: bytes, other: bytes) -> bool:
    """Whether two files tokenizer.json differ at most in how they are written, and in what is never used here."""
    if tokenizer == other:
        return True
    try:
        found = [json.loads(each) for each in (tokenizer, other)]
    except (ValueError, RecursionError):
        return False
    used = [{**each, **dict.fromkeys(_NO_IDS)} for each in found if isinstance(each, dict)]
    return len(used) == len(found) and used[0] == used[1]


def _check_same(checkpoint: Place, setting: str, config: Config, keys: Sequence[str]) -> None:
    lines = configs.diff(config_of(checkpoint), config)
    changed = [line for line in lines if line.startswith(tuple(keys)) and not line.startswith(_NO_MATTER)]
    if changed:
        raise ValueError(
            f"{setting}: {checkpoint} does not fit, because these differ from its own:\n  "
            + "\n  ".join(changed)
            + "\nset them to its values, or start from other weights"
        )
