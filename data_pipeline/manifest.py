"""The record of a prepared corpus: what `prepare` writes last and every reader opens first."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import CorpusError

VERSION = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
SPLITS = ("train", "val")


@dataclass(frozen=True)
class ShardInfo:
    """One tar file."""

    name: str
    num_tokens: int
    num_documents: int
    """Documents that end in this shard."""
    num_members: int
    """Samples in WebDataset's sense: pairs of KEY.tokens.npy and KEY.doc_lens.npy."""
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class SplitInfo:
    """The shards of one split, in order, and their sums."""

    num_tokens: int
    num_documents: int
    num_bytes: int
    """UTF-8 bytes of the text."""
    shards: list[ShardInfo]


@dataclass(frozen=True)
class Source:
    """One input of the corpus."""

    path: str
    num_files: int
    size_bytes: int
    """On disk, so packed where the files are."""


@dataclass(frozen=True)
class Manifest:
    """All there is to know about a corpus without opening a shard."""

    version: int
    dtype: str
    """numpy's name of the tokens' type: uint16 or uint32."""
    vocab_size: int
    eot_id: int
    """The token that ends every document."""
    tokenizer_sha256: str
    splits: dict[str, SplitInfo]
    unigram_entropy_nats: float
    """Entropy of the token frequencies of the train split: the loss of a model that knows nothing else."""
    num_replaced_documents: int
    """Documents that were not valid UTF-8."""
    sources: list[Source]
    prepared_from: str
    """Hash of the inputs' paths, sizes and times, and of the settings."""

    def write(self, folder: Path) -> None:
        """Write the manifest so that it is there whole or not at all."""
        partial = folder / (MANIFEST + ".partial")
        partial.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n", encoding="utf-8")
        partial.replace(folder / MANIFEST)

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Return the manifest of a folder; raise CorpusError where there is none, or one that cannot be used."""
        path = folder / MANIFEST
        if not folder.is_dir():
            raise CorpusError(f"there is no corpus at {folder}: write one with `foretrain prepare`, or set data.path")
        if not path.is_file():
            raise CorpusError(f"{folder} has no {MANIFEST}, so it is not a finished corpus: run `foretrain prepare`")
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            if fields["version"] != VERSION:
                raise CorpusError(f"{path} has version {fields['version']}, not {VERSION}: prepare the corpus again")
            return cls._from_fields(fields)
        except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise CorpusError(f"{path} is damaged ({error!r}): prepare the corpus again") from error

    @classmethod
    def _from_fields(cls, fields: dict[str, Any]) -> "Manifest":
        splits = {
            name: SplitInfo(**{**split, "shards": [ShardInfo(**shard) for shard in split["shards"]]})
            for name, split in fields["splits"].items()
        }
        return cls(**{**fields, "splits": splits, "sources": [Source(**source) for source in fields["sources"]]})


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return the smallest type of token ids that prepare writes: uint16, or uint32 above 65,536 tokens."""
    return np.dtype("<u2") if vocab_size <= 2**16 else np.dtype("<u4")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
