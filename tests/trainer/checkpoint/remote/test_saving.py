"""One rank that saves into a folder of a server, without a run around it."""

from pathlib import Path

import pytest

from foretrain.configs.schema import Config, TrainConfig
from foretrain.parallel.groups import destroy_groups
from foretrain.trainer.build import build_engine
from foretrain.trainer.checkpoint.files import SaveError
from foretrain.trainer.checkpoint.folders import folder_of
from foretrain.trainer.checkpoint.loading import load
from foretrain.trainer.checkpoint.manifest import check_content
from foretrain.trainer.checkpoint.parts import parts_to_read
from foretrain.trainer.checkpoint.places import Place
from foretrain.trainer.checkpoint.remote.path import RemotePath
from tests.conftest import RunOnRanks
from tests.parallel.workers import small_model
from tests.trainer.checkpoint.workers import NUM_BEFORE, groups_of, save

CONFIG = Config(model=small_model(num_layers=1), train=TrainConfig(global_batch_size=1))


def save_again(folder: Place) -> str:
    """Save beside what a killed save has left, load that, and save once more. Returns the error of the last save."""
    _, state = build_engine(CONFIG, groups_of(CONFIG))
    if isinstance(folder, RemotePath):
        (folder / "step-00000001" / "__0_0.distcp").write_bytes(b"left by a save that was killed")
    path = save(folder, state, CONFIG)
    assert folder_of(folder).complete() == [path] and folder_of(folder).partial() == []
    written = [part.values.clone() for part in parts_to_read(state)]
    for part in parts_to_read(state):
        part.values.zero_()
    load(path, state, NUM_BEFORE)
    assert all(part.values.equal(value) for part, value in zip(parts_to_read(state), written, strict=True))
    with pytest.raises(SaveError) as found:
        save(folder, state, CONFIG)
    check_content(path)
    destroy_groups()
    return str(found.value)


@pytest.mark.parametrize("folder", ["memory://bucket/run", None])
def test_a_complete_checkpoint_is_never_written_again(folder: str | None, tmp_path: Path, ranks: RunOnRanks) -> None:
    place = RemotePath(folder) if folder else tmp_path / "checkpoints"
    (error,) = ranks(1, save_again, place)
    assert f"{place}/step-{NUM_BEFORE:08d} is there already" in error
