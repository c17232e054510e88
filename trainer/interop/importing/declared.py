"""The model that a config.json declares, as a model section of ours that computes the same. No torch."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from foretrain import limits
from foretrain.configs.model import ModelConfig
from foretrain.files import is_file
from foretrain.trainer.interop.importing.errors import UnfitError, read_object, shown
from foretrain.trainer.interop.importing.kinds import KINDS, Kind
from foretrain.typed_json import from_values

CONFIG = "config.json"


@dataclass(frozen=True)
class Declared:
    """What a config.json declares."""

    kind: Kind
    model: ModelConfig
    dropouts: dict[str, float]
    """The fields that ask for dropout in training, and how much of it."""


def declared_model(folder: Path, seq_len: int | None, name: str) -> Declared:
    """The model of a folder, for sequences of `seq_len` tokens (None: as long as the model allows).

    Raises UnfitError, in one line with each field of config.json that is in the way, and its value, if our model
    computes something else.
    """
    path = folder / CONFIG
    if not is_file(path):
        raise UnfitError(f"{path} does not exist: give the folder of a model that transformers has written")
    found = read_object(path, limits.CONFIG_BYTES)
    kind = _kind_of(path, found)
    try:
        values = from_values(kind.fields, {key: each for key, each in found.items() if key not in kind.fixed})
    except ValueError as error:
        raise UnfitError(f"{path} is not that of a {kind.name} model ({error})") from error
    if reasons := [*_fixed(kind, found), *kind.refusals(values, seq_len), *_unknown(kind, found)]:
        raise UnfitError(f"{path}: no model of foretrain computes this {kind.name}, because of {'; '.join(reasons)}")
    try:
        model = kind.model(values, seq_len, name)
    except ValueError as error:
        raise UnfitError(f"{path}: no model of foretrain has these sizes: {error}") from error
    return Declared(kind, model, {key: each for key, each in kind.dropouts(values).items() if each})


def _kind_of(path: Path, found: dict[str, Any]) -> Kind:
    model_type, architectures = found.get("model_type"), found.get("architectures")
    kind = KINDS.get(model_type) if isinstance(model_type, str) else None
    if kind is None:
        raise UnfitError(
            f"{path} has model_type = {shown(model_type)}, and models that can be imported have {', '.join(KINDS)}"
        )
    if architectures not in (None, [kind.architecture]):
        raise UnfitError(
            f"{path} has architectures = {shown(architectures)}, and a {kind.name} that can be imported has "
            f"{shown([kind.architecture])}"
        )
    return kind


def _fixed(kind: Kind, found: dict[str, Any]) -> Iterator[str]:
    for name, value in kind.fixed.items():
        if name in found and not _is_same(found[name], value):
            yield f"{name} = {shown(found[name])} (it needs {shown(value)})"


def _is_same(found: object, value: object) -> bool:
    return found == value and isinstance(found, bool) == isinstance(value, bool)  # 1 is not true


def _unknown(kind: Kind, found: dict[str, Any]) -> Iterator[str]:
    """The fields of which nobody knows what they change. One that is null is not set."""
    known = {each.name for each in fields(kind.fields)} | kind.fixed.keys() | kind.no_matter
    for name, value in found.items():
        if name not in known and value is not None:
            yield f"{name[:100]} = {shown(value)} (not known: delete it if the model computes the same without it)"
