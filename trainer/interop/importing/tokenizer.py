"""The tokenizer of a model folder, and the token that ends a document. No torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from foretrain import limits
from foretrain.data_pipeline.corpus.manifest import TOKENIZER
from foretrain.data_pipeline.prepare.tokenizer import find_eot, load_tokenizer, vocab_size_of
from foretrain.files import is_file, read_bounded
from foretrain.trainer.interop.importing.declared import CONFIG
from foretrain.trainer.interop.importing.errors import UnfitError, read_object, shown

_WITH_IDS = (CONFIG, "generation_config.json")
_SETTINGS = "tokenizer_config.json"
_NAME_ONE = "name the one that ends a document with --eot-token"


@dataclass(frozen=True)
class ImportedTokenizer:
    """A tokenizer for a checkpoint."""

    content: bytes
    """The file tokenizer.json, as it is: data that were prepared with it have the same bytes."""
    eot_id: int
    """The token that ends a document."""
    eot: str
    """Its text."""


def tokenizer_of(folder: Path, vocab_size: int, file: Path | None, eot_token: str | None) -> ImportedTokenizer:
    """The tokenizer of a model folder, or of `file`, and the token that ends a document, which `eot_token` may name.

    Raises UnfitError, or CorpusError, if there is none, if it has more tokens than the model, and if the token that
    ends a document is not clear.
    """
    path = file or folder / TOKENIZER
    if not is_file(path):
        raise UnfitError(
            f"{path} does not exist: give a tokenizer.json with --tokenizer FILE; transformers makes one of "
            "other files: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    content, tokenizer = read_bounded(path, limits.TOKENIZER_BYTES, UnfitError), load_tokenizer(path)
    if not tokenizer.get_vocab_size():
        raise UnfitError(f"{path} has no tokens: give another one with --tokenizer FILE")
    if (needed := vocab_size_of(tokenizer)) > vocab_size:
        raise UnfitError(
            f"{path} has tokens up to {needed - 1:,}, and the model has rows for {vocab_size:,} (vocab_size in "
            f"{CONFIG}): give its own tokenizer with --tokenizer FILE"
        )
    eot_id = _eot_id(folder, tokenizer, eot_token)
    return ImportedTokenizer(content, eot_id, tokenizer.id_to_token(eot_id) or "")


def _eot_id(folder: Path, tokenizer: Tokenizer, eot_token: str | None) -> int:
    """The id that the first of the files names that names one; else that of a token with a usual name."""
    if eot_token is not None:
        return find_eot(tokenizer, eot_token)
    for name in _WITH_IDS:
        path = folder / name
        found = _ids(read_object(path, limits.CONFIG_BYTES).get("eos_token_id")) if is_file(path) else []
        if len(found) > 1:
            raise UnfitError(f"{path} has eos_token_id = {shown(found)}: {_NAME_ONE}")
        if found:
            if not _is_id(found[0]) or tokenizer.id_to_token(found[0]) is None:
                raise UnfitError(f"{path} has eos_token_id = {shown(found[0])}, no token of the tokenizer: {_NAME_ONE}")
            return int(found[0])
    path = folder / _SETTINGS
    token = read_object(path, limits.TOKENIZER_BYTES).get("eos_token") if is_file(path) else None
    token = token.get("content") if isinstance(token, dict) else token
    return find_eot(tokenizer, token if isinstance(token, str) else None)


def _ids(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < limits.VOCAB_SIZE
