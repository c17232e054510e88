"""The tokenizer that a user gives: a tokenizer.json, or a folder of transformers that has one and names its tokens."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foretrain import limits
from foretrain.data_pipeline.corpus.manifest import TOKENIZER, read_bounded
from foretrain.data_pipeline.errors import CorpusError

SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
END_TOKENS = ("eos_token", "bos_token")
"""Settings that name the token between documents. Some models have one token for both, and name only the second."""


@dataclass(frozen=True)
class GivenTokenizer:
    """What a path names."""

    file: Path
    """The tokenizer.json."""
    eot_token: str | None
    """The token that ends a document, if a file of the folder names one."""


def given_tokenizer(path: Path) -> GivenTokenizer:
    """Return what a path names. Raises CorpusError without a tokenizer.json, and for a damaged file of the folder."""
    if path.is_file():
        return GivenTokenizer(path, None)
    if not path.exists():
        raise CorpusError(f"tokenizer_path = {path} does not exist: give a tokenizer.json, or a folder that has one")
    if not (path / TOKENIZER).is_file():
        raise CorpusError(
            f"tokenizer_path = {path} is a folder without a {TOKENIZER}: give another one; transformers makes it of "
            "other files: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    named = [_object(path / name) for name in SETTINGS if (path / name).is_file()]
    tokens = [_text_of(fields.get(key)) for key in END_TOKENS for fields in named]
    return GivenTokenizer(path / TOKENIZER, next(filter(None, tokens), None))


def _object(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(read_bounded(path, limits.TOKENIZER_BYTES))
    except (ValueError, RecursionError) as error:
        if isinstance(error, CorpusError):
            raise
        raise CorpusError(f"{path} is not JSON ({error}): repair it, or give the {TOKENIZER} beside it") from error
    if not isinstance(fields, dict):
        raise CorpusError(f"{path} is not a JSON object: repair it, or give the {TOKENIZER} beside it")
    return fields


def _text_of(token: Any) -> str | None:
    """The text of a token, which is written as a string or as an object."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None
