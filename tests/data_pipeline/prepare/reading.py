"""What a pass over files of documents gives, as plain values."""

from pathlib import Path
from typing import Any

from foretrain.data_pipeline.prepare.documents import DocumentReader
from foretrain.data_pipeline.prepare.input_files import find_files
from foretrain.data_pipeline.prepare.token_members import TokenFormat

TOKENS = TokenFormat(vocab_size=300, eot_id=0)
ATTACK = "\x1b[2J"
"""Clears a terminal."""


def read(*inputs: Path, **options: Any) -> list[Any]:
    """The documents: strings, or lists of tokens."""
    documents = DocumentReader(find_files(inputs), **options)
    return [each if isinstance(each, str) else each.tolist() for each in documents]


def read_tokens(*inputs: Path) -> list[Any]:
    """The documents of files that may have tokens."""
    return read(*inputs, token_format=TOKENS)
