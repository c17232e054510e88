"""Exporting a checkpoint as a folder that transformers loads, without the model in memory and without a GPU."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from foretrain.configs.schema import Config
from foretrain.data_pipeline.prepare.tokenizer import vocab_size_of
from foretrain.files import write_atomically
from foretrain.progress import Advance, byte_progress
from foretrain.trainer.checkpoint.checksums import DamagedError
from foretrain.trainer.checkpoint.inspect import is_checkpoint
from foretrain.trainer.checkpoint.places import Place
from foretrain.trainer.checkpoint.record import CheckpointRecord, config_of
from foretrain.trainer.checkpoint.space import GIB, free_bytes
from foretrain.trainer.checkpoint.weights import StoredWeights
from foretrain.trainer.interop.card import model_card
from foretrain.trainer.interop.convert import parts_of
from foretrain.trainer.interop.facts import facts_of
from foretrain.trainer.interop.families import family_of
from foretrain.trainer.interop.family import Family, targets_of
from foretrain.trainer.interop.folder import check_is_free, replacing_folder
from foretrain.trainer.interop.safetensors import DTYPES, write_file
from foretrain.trainer.interop.tensors import Target, file_names, files_of
from foretrain.trainer.interop.tokenizer import tokenizer_of, write_tokenizer
from foretrain.trainer.mup.parametrize import blueprint
from foretrain.trainer.run.origin import find

VERSION = 1
MAX_FILE_BYTES = 5 * 10**9
"""Bytes of the largest file, unless one tensor needs more: object stores limit what is sent at once."""


@dataclass(frozen=True)
class Exported:
    """What was exported."""

    out: Path
    checkpoint: Place
    family: Family
    dtype: str
    num_bytes: int
    """Bytes of the weights."""
    num_files: int
    """Files with weights."""

    def __str__(self) -> str:
        files = "1 file" if self.num_files == 1 else f"{self.num_files} files"
        return (
            f"{self.out}: {self.checkpoint.absolute().name} as {self.family.name} in {self.dtype}, {files} of weights, "
            f"{self.num_bytes / 1e6:,.1f} MB"
        )


def export(
    target: Place,
    out: Path,
    dtype: str = "fp32",
    *,
    overwrite: bool = False,
    max_file_bytes: int = MAX_FILE_BYTES,
    progress: bool = False,
) -> Exported:
    """Export a checkpoint, or the newest one of a run, to the folder `out`.

    Takes memory for one tensor of the model. `overwrite`: replace an earlier export. `progress`: show it on stderr.
    Raises ValueError if there is no sound checkpoint, if no family of transformers computes the model, or if `out` has
    something else; `out` is then as it was.
    """
    check_is_free(out, overwrite=overwrite)
    checkpoint: Place = find(str(target), "RUN")
    config, record = config_of(checkpoint), CheckpointRecord.read(checkpoint)
    family = family_of(config)
    targets = targets_of(family, blueprint(config))
    vocab_size = config.model.vocab_size
    assert vocab_size is not None, "the shape of the targets has it"
    tokenizer = tokenizer_of(checkpoint, vocab_size)
    run = target if isinstance(target, Path) and not is_checkpoint(target) else None
    facts = facts_of(checkpoint, config, record, run)
    item_bytes = DTYPES[dtype].itemsize
    num_bytes = item_bytes * sum(each.num_elements for each in targets)
    _check_room(out, num_bytes)
    files = files_of(targets, item_bytes, max_file_bytes)
    name = checkpoint.absolute().name
    mark = {"version": VERSION, "checkpoint": name, "step": record.step, "family": family.name, "dtype": dtype}
    with replacing_folder(out, mark, overwrite=overwrite) as folder:
        write_tokenizer(folder, tokenizer, record.eot_id, config.model.seq_len)
        settings = _settings(config, family, dtype, record.eot_id)
        _write_json(folder / "config.json", settings)
        _write_json(folder / "generation_config.json", _generation(config, record.eot_id))
        card = model_card(facts, family, dtype, name, vocab_size_of(tokenizer))
        write_atomically(folder / "README.md", card)
        with byte_progress(f"exporting {name}", num_bytes, enabled=progress) as advance:
            _write_weights(folder, files, checkpoint, dtype, advance)
        if len(files) > 1:
            _write_json(folder / "model.safetensors.index.json", _index(files, num_bytes))
    return Exported(out, checkpoint, family, dtype, num_bytes, len(files))


def _write_weights(folder: Path, files: list[list[Target]], checkpoint: Place, dtype: str, advance: Advance) -> None:
    """Write each file of weights."""
    try:
        weights = StoredWeights(checkpoint)
        for file, targets in zip(file_names(len(files)), files, strict=True):
            parts = partial(parts_of, weights=weights, dtype=DTYPES[dtype])
            write_file(folder / file, targets, DTYPES[dtype], parts, advance)
    except DamagedError as error:
        raise DamagedError(
            f"{error}: export another checkpoint; `foretrain checkpoint verify` finds a sound one"
        ) from error


def _settings(config: Config, family: Family, dtype: str, eot_id: int) -> dict[str, Any]:
    """The content of config.json."""
    name = str(DTYPES[dtype]).removeprefix("torch.")
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        **family.settings(config.model),
        "tie_word_embeddings": config.model.tie_embeddings,
        "bos_token_id": eot_id,
        "eos_token_id": eot_id,
        "use_cache": True,
        # Version 5 of the library reads the first, and earlier ones and other programs the second.
        "dtype": name,
        "torch_dtype": name,
    }


def _generation(config: Config, eot_id: int) -> dict[str, Any]:
    """The content of generation_config.json: how the run's own samples were drawn."""
    settings: dict[str, Any] = {"bos_token_id": eot_id, "eos_token_id": eot_id}
    sample = config.sample
    if sample.temperature == 0:
        return {**settings, "do_sample": False}
    drawn = {"temperature": sample.temperature, "top_k": sample.top_k, "top_p": sample.top_p, "min_p": sample.min_p}
    return {**settings, "do_sample": True, **drawn}


def _index(files: list[list[Target]], num_bytes: int) -> dict[str, Any]:
    """The content of the index: in which file each tensor is."""
    places = {
        target.name: file for file, targets in zip(file_names(len(files)), files, strict=True) for target in targets
    }
    return {"metadata": {"total_size": num_bytes}, "weight_map": dict(sorted(places.items()))}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def _check_room(out: Path, num_bytes: int) -> None:
    free = free_bytes(out.resolve().parent)
    if free < num_bytes:
        raise ValueError(
            f"the weights have {num_bytes / GIB:.3f} GiB, and {free / GIB:.3f} GiB are free for {out}: free some, or "
            "choose another folder or --dtype bf16"
        )
