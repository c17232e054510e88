"""Opening a foreign checkpoint executes nothing, and reads nothing that is not its own."""

import pickle
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from foretrain.configs.load import ConfigError
from foretrain.configs.schema import ParallelConfig
from foretrain.launcher.local.run import RankError
from foretrain.trainer.checkpoint.checksums import DamagedError, read_checked
from foretrain.trainer.checkpoint.inspect import complete
from foretrain.trainer.checkpoint.manifest import METADATA
from foretrain.trainer.checkpoint.metadata import UnsafeError, read_metadata
from foretrain.trainer.checkpoint.record import CheckpointRecord
from foretrain.trainer.run.folder import CHECKPOINTS, CONFIG_FILE, RECORD, checkpoints_in
from foretrain.trainer.run.rank import train_rank
from foretrain.trainer.run.setup import prepare_run
from foretrain.trainer.text.inference import load_model
from tests.conftest import RunOnRanks
from tests.trainer.checkpoint.hostile import ATTACKS, attack, pickle_that_changes_a_class
from tests.trainer.test_resume import config

FILE = Path("step-00000002", METADATA)
DATA = "__0_0.distcp"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, corpus: Path, ranks: RunOnRanks) -> Path:
    """A run with a checkpoint of step 2 of 7."""
    settings = config(tmp_path_factory.mktemp("sound"), corpus, ParallelConfig())
    ranks(1, train_rank, prepare_run(replace(settings, train=replace(settings.train, stop_after=2))))
    return Path(settings.run_dir)


@pytest.fixture
def run(sound: Path, tmp_path: Path) -> Path:
    """A copy of it, for an attacker to change."""
    return Path(shutil.copytree(sound, tmp_path / "run"))


@pytest.fixture
def sign(tmp_path: Path) -> Path:
    """A folder that exists if a command of an attacker was executed."""
    return tmp_path / "executed"


@pytest.mark.parametrize("has_checksums", [True, False])
@pytest.mark.parametrize("name", ATTACKS)
def test_generating_from_a_hostile_checkpoint_is_refused_and_executes_nothing(
    name: str, has_checksums: bool, run: Path, sign: Path
) -> None:
    attack(run / CHECKPOINTS / "step-00000002", name, sign, has_checksums=has_checksums)
    with pytest.raises(UnsafeError, match=r"step-00000002/\.metadata\b.*source that you trust"):
        load_model(run)
    assert not sign.exists()


@pytest.mark.parametrize("setting", ["resume", "init_from", "branch_from"])
def test_training_from_a_hostile_checkpoint_is_refused_and_executes_nothing(
    setting: str, run: Path, sign: Path, tmp_path: Path, corpus: Path, ranks: RunOnRanks
) -> None:
    attack(run / CHECKPOINTS / "step-00000002", "metadata_with_a_command", sign)
    settings = config(run if setting == "resume" else tmp_path / "new", corpus, ParallelConfig())
    if setting != "resume":
        setattr(settings.train, setting, str(run))
    with pytest.raises(RankError, match=r"names '(posix|os)\.mkdir', which is no part of a list of tensors"):
        ranks(1, train_rank, prepare_run(settings))
    assert not sign.exists()
    assert [path.name for path in complete(run)] == ["step-00000002"], "it was set aside as if a disk had damaged it"


def test_the_metadata_of_a_sound_checkpoint_are_those_that_torch_reads(run: Path) -> None:
    file = run / CHECKPOINTS / "step-00000002" / METADATA
    content = read_checked(file)
    found, theirs = read_metadata(content, file), pickle.loads(content)
    assert found == theirs
    assert found.storage_data == theirs.storage_data and found.planner_data == theirs.planner_data


def test_no_class_of_a_library_can_be_changed() -> None:
    for module, name in (
        ("torch.distributed.checkpoint.metadata", "Metadata"),
        ("torch", "Size"),
        ("torch", "float32"),
    ):
        with pytest.raises(DamagedError):
            read_metadata(pickle_that_changes_a_class(module, name), FILE)
    assert not hasattr(Metadata, "poison")


def small(**changes: Any) -> Metadata:
    """The metadata of one tensor of two parts, with another field."""
    size = torch.Size([4, 3])
    halves = [ChunkStorageMetadata(torch.Size([start, 0]), torch.Size([2, 3])) for start in (0, 2)]
    chunks = changes.get("chunks", halves)
    tensor = TensorStorageMetadata(TensorProperties(changes.get("dtype", torch.float32)), size, chunks)
    name = changes.get("name", "weight.x")
    indices = [MetadataIndex(name, half.offsets, number) for number, half in enumerate(halves)]
    info = _StorageInfo(changes.get("file", DATA), changes.get("offset", 0), changes.get("length", 100))
    storage = dict.fromkeys(changes.get("indices", indices), info)
    return Metadata({name: tensor}, {name: ("weight", "x")}, storage, StorageMeta("folder"), "1.0.0")


def test_the_metadata_of_version_0_1_whose_folder_is_a_path_are_read() -> None:
    metadata = small()
    metadata.storage_meta = StorageMeta(Path("folder"))
    assert read_metadata(pickle.dumps(metadata), FILE).state_dict_metadata == small().state_dict_metadata


def test_a_list_of_tensors_is_read_back() -> None:
    assert read_metadata(pickle.dumps(small()), FILE) == small()
    assert read_metadata(pickle.dumps(small(dtype=torch.bfloat16)), FILE) == small(dtype=torch.bfloat16)


def test_the_metadata_of_one_rank_may_have_parts_of_tensors() -> None:
    part = small(chunks=[chunk([0, 0], [2, 3])])
    assert read_metadata(pickle.dumps(part), FILE, of_one_rank=True) == part


def chunk(offsets: list[int], sizes: list[int]) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chunks": [chunk([0, 0], [2, 3])]}, "lacks parts of 'weight.x'"),
        ({"chunks": [chunk([0, 0], [2, 3]), chunk([3, 0], [2, 3])]}, "part outside of its tensor"),
        ({"chunks": [chunk([0], [12])]}, "part outside of its tensor"),
        ({"indices": []}, "does not say where a part of 'weight.x' is"),
        ({"offset": -1}, "before the start of its file"),
        ({"length": "100"}, "has a str where a int must be"),
        ({"name": 7}, "has a int where a str must be"),
        ({"dtype": "float32"}, "has a str where a dtype must be"),
    ],
)
def test_a_list_that_does_not_fit_to_itself_is_damaged(change: dict[str, Any], words: str) -> None:
    with pytest.raises(DamagedError, match=words):
        read_metadata(pickle.dumps(small(**change)), FILE)


def test_a_pickle_that_numbers_an_object_far_beyond_its_size_takes_no_memory() -> None:
    content = pickle.PROTO + b"\4N" + pickle.LONG_BINPUT + (1 << 26).to_bytes(4, "little") + pickle.STOP
    tracemalloc.start()
    try:
        with pytest.raises(DamagedError, match="is not the list of a checkpoint's tensors"):
            read_metadata(content, FILE)
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "content",
    [b'{"step": "two"}', b"\xff", b"[" * 100_000, b"{}", b"[]"],
    ids=["type", "utf-8", "deep", "empty", "list"],
)
def test_a_record_that_is_none_is_refused_in_a_line_that_names_the_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / RECORD).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{RECORD} is not the record of a checkpoint: .*: use another checkpoint"):
        CheckpointRecord.read(tmp_path)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"train: {checkpoint_folder: [a]}", r"train\.checkpoint_folder is no folder \(.*config\.yaml:1\)"),
        (b"train: \xff", r"not valid YAML \(.*config\.yaml:1\)"),
        (b"- a", r"a config holds keys with values"),
        (b"x: &a [&b [1, 1], *b]\ny: &c [*a, *a]\nz: *z", r"not valid YAML \(.*config\.yaml:3\)"),
    ],
)
def test_a_run_whose_config_cannot_be_read_is_refused_with_the_place(text: bytes, what: str, tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_bytes(text)
    with pytest.raises(ConfigError, match=what):
        checkpoints_in(tmp_path)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/b", "..", ".", ""])
def test_a_file_of_another_folder_is_refused(name: str) -> None:
    with pytest.raises(UnsafeError, match="not one of the checkpoint's own folder"):
        read_metadata(pickle.dumps(small(file=name)), FILE)


@given(st.data())
def test_changed_bytes_are_an_error_that_names_the_file_or_another_list(data: st.DataObject) -> None:
    content = bytearray(pickle.dumps(small()))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_metadata(bytes(content), FILE)
    except (DamagedError, UnsafeError) as error:
        assert str(FILE) in str(error)  # noqa: PT017


@given(st.binary(max_size=200))
def test_any_bytes_are_an_error_that_names_the_file(content: bytes) -> None:
    with pytest.raises((DamagedError, UnsafeError), match=r"step-00000002/\.metadata"):
        read_metadata(b"\x80\x04" + content, FILE)
