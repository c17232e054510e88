"""The tensors in the safetensors files of a model folder. No torch."""

import re
from dataclasses import dataclass
from pathlib import Path

from foretrain import limits
from foretrain.files import is_file, is_folder, read_bounded
from foretrain.trainer.checkpoint.places import read_range
from foretrain.trainer.interop.importing.errors import AGAIN, UnfitError, listed
from foretrain.trainer.interop.importing.header import Entry, read_header
from foretrain.typed_json import from_json

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,200}\.safetensors")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_VERSION = 1


@dataclass(frozen=True)
class Stored:
    """A tensor in a file."""

    name: str
    """The name that it has in the file."""
    path: Path
    entry: Entry

    def read(self, first: int, stop: int) -> bytearray:
        """Bytes of its elements, from `first` up to `stop`."""
        found = read_range(self.path, self.entry.start + first, self.entry.start + stop)
        if len(found) != stop - first:
            raise UnfitError(f"{self.path} has become shorter while it was read: {AGAIN}")
        return found


@dataclass(frozen=True)
class _Index:
    weight_map: dict[str, str]
    """The file of each tensor."""


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor of a model folder by its name.

    Raises UnfitError if the folder has no weights that can be read, and for files that are not complete.
    """
    single, index = folder / SINGLE, folder / INDEX
    if is_file(single) and is_file(index):
        raise UnfitError(f"{folder} has both {SINGLE} and {INDEX}: remove the one that is not meant")
    if is_file(single):
        return {name: Stored(name, single, entry) for name, entry in read_header(single).items()}
    if is_file(index):
        return _of_index(index)
    raise UnfitError(_no_weights(folder))


def _of_index(index: Path) -> dict[str, Stored]:
    found: dict[str, Stored] = {}
    for file, names in read_index(index).items():
        path = index.with_name(file)
        if not is_file(path):
            raise UnfitError(f"{path} is missing, and {INDEX} has {len(names):,} tensors in it: {AGAIN}")
        entries = read_header(path)
        if absent := [name for name in names if name not in entries]:
            raise UnfitError(f"{path} has no {listed(absent)}, which {INDEX} has in it: {AGAIN}")
        if more := [name for name in entries if name not in names]:
            raise UnfitError(f"{path} has {listed(more)}, which {INDEX} does not have in it: {AGAIN}")
        found |= {name: Stored(name, path, entry) for name, entry in entries.items()}
    return found


def read_index(path: Path) -> dict[str, set[str]]:
    """The names of the tensors in each file of an index. Raises UnfitError if a file is not one of its folder."""
    content = read_bounded(path, limits.SAFETENSORS_INDEX_BYTES, UnfitError)
    try:
        places = from_json(_Index, content, _VERSION).weight_map
    except ValueError as error:
        raise UnfitError(f"{path} is not an index of safetensors files ({error}): {AGAIN}") from error
    files: dict[str, set[str]] = {}
    for name, file in places.items():
        if not _FILE_NAME.fullmatch(file):
            raise UnfitError(
                f"{path} has the file {file[:100]!r}, which is not the name of a safetensors file beside it"
            )
        files.setdefault(file, set()).add(name)
    if len(files) > limits.SAFETENSORS_FILES:
        raise UnfitError(f"{path} has {len(files):,} files, and {limits.SAFETENSORS_FILES:,} is the limit")
    return files


def _no_weights(folder: Path) -> str:
    if not is_folder(folder):
        return (
            f"there is no folder {folder}: give one with config.json, safetensors files and tokenizer.json, as "
            "`hf download NAME --local-dir FOLDER` makes it"
        )
    if others := sorted(path.name for path in folder.glob("*.safetensors")):
        return f"{folder} has {listed(others)} and neither {SINGLE} nor {INDEX}: {AGAIN}"
    if pickles := sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern)):
        return (
            f"{folder} has its weights as a pickle, {listed(pickles)}, which can run commands when it is read: get the "
            "model as safetensors, or, if you trust it, load it with transformers and write it with save_pretrained"
        )
    return f"{folder} has neither {SINGLE} nor {INDEX}: give the folder of a model with safetensors files"
