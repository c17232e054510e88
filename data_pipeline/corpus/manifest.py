"""The manifest of a corpus, which `prepare` writes last and every reader opens first."""

import dataclasses
import hashlib
import json
import math
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from foretrain import files, limits
from foretrain.data_pipeline.corpus.report import InputReport
from foretrain.data_pipeline.errors import REMEDY, CorpusError
from foretrain.files import is_file, is_folder, write_atomically

VERSION = 2
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
SPLITS = ("train", "val")
"""The splits of every corpus. Each named set of held-out files is one more; see `split_of_set`."""
SET_NAME = "[a-z][a-z0-9_]*"
"""What the name of a set of held-out files looks like: it becomes part of the names of files and of metrics."""
DTYPES = ("uint16", "uint32")
MEMBER_BYTES = 2048
"""Bytes of a sample's headers in a shard, at the least."""
NO_SHA256 = "0" * 64
_QUOTED_CHARS = 300
"""Characters that are quoted of an error of the parser, which may repeat the complete file."""


def split_of_set(name: str) -> str:
    """Return the split of a named set of held-out files, whose documents are in the val split too."""
    return f"val-{name}"


def index_name(split: str) -> str:
    """Return the name of the file with the offsets of all samples of a split."""
    return f"{split}.index.npy"


def checked_name(split: str) -> str:
    """Return the name of the record of the files that were checked on this machine (see `check`)."""
    return f".{split}.checked.json"


def is_part_of_corpus(name: str) -> bool:
    """Return whether `prepare`, or a reader of its corpus, writes files of this name."""
    checks = (".{}.checked.json*", "..{}.checked.json.*")
    patterns = ("{}-*.tar", "{}.index.npy", *checks, "{}.best_fit-*", ".{}.best_fit-*")
    return name in (MANIFEST, TOKENIZER) or any(
        fnmatchcase(name, pattern.format(split)) for pattern in patterns for split in (*SPLITS, split_of_set("*"))
    )


@dataclass(frozen=True)
class ShardInfo:
    """One tar file."""

    name: str
    num_tokens: int
    num_documents: int
    """Documents that end in this shard."""
    num_members: int
    """Number of samples, which are pairs of KEY.tokens.npy and KEY.doc_lens.npy."""
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class SplitInfo:
    """The shards of one split, in order, and their sums."""

    num_tokens: int
    num_documents: int
    num_bytes: int
    """UTF-8 bytes of the text."""
    index_sha256: str
    """SHA-256 of the file `index_name`."""
    shards: list[ShardInfo]


@dataclass(frozen=True)
class Source:
    """One input of the corpus."""

    path: str
    num_files: int
    size_bytes: int
    """On disk, so compressed if the files are."""


@dataclass(frozen=True)
class Manifest:
    """Everything that is known about a corpus without opening a shard."""

    version: int
    dtype: str
    """numpy's name of the tokens' type: uint16 or uint32."""
    vocab_size: int
    eot_id: int
    """The token that ends every document."""
    tokenizer_sha256: str
    splits: dict[str, SplitInfo]
    unigram_entropy_nats: float
    """Entropy of the token frequencies of the train split: the loss of a model that knows only them."""
    num_replaced_documents: int
    """Documents that were not valid UTF-8."""
    sources: list[Source]
    prepared_from: str
    """Hash of the inputs' paths, sizes and times, and of the settings."""
    held_out_unigram_nats: float | None = None
    """Loss on the held-out split of a model that knows only how often each token occurs in the train split, as
    `prepare/unigrams.py` computes it; None without a held-out split, and in corpora of versions before 0.2.0."""
    val_sources: list[Source] = dataclasses.field(default_factory=list)
    """The user's own files of the val split. Empty: its documents are from `sources` and `val_sets` alone."""
    val_sets: dict[str, list[Source]] = dataclasses.field(default_factory=dict)
    """The files of each named set of held-out files, which is a split of its own and a part of the val split."""
    report: InputReport = dataclasses.field(default_factory=InputReport)
    """What of the inputs was left out, replaced and ignored; empty in corpora of versions before 0.2.0."""

    def write(self, folder: Path) -> None:
        """Write the manifest, with the SHA-256 of its own text in it, in one step."""
        fields = {**dataclasses.asdict(self), "sha256": NO_SHA256}
        text = (json.dumps(fields, indent=2) + "\n").encode()
        sha256 = hashlib.sha256(text).hexdigest()
        write_atomically(folder / MANIFEST, _replace_last(text, NO_SHA256, sha256))

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Return the manifest of a folder. Raises CorpusError if there is none, or if it cannot be used."""
        path = folder / MANIFEST
        if not is_folder(folder):
            raise CorpusError(f"there is no corpus at {folder}: write one with `foretrain prepare`, or set data.path")
        if not is_file(path):
            raise CorpusError(f"{folder} has no {MANIFEST}, so it is not a finished corpus: run `foretrain prepare`")
        return cls.parse(read_bounded(path, limits.MANIFEST_BYTES), str(path))

    @classmethod
    def parse(cls, text: bytes, path: str) -> "Manifest":
        """Return the manifest in the content of a file. Raises CorpusError if it cannot be used."""
        try:
            fields = json.loads(text)
            if fields["version"] != VERSION:
                raise CorpusError(f"{path} has version {fields['version']}, not {VERSION}: prepare the corpus again")
            sha256 = fields.pop("sha256")
            if hashlib.sha256(_replace_last(text, sha256, NO_SHA256)).hexdigest() != sha256:
                raise ValueError("its text is not the one that was written")
            manifest = cls._from_fields(fields)
            _check(manifest)
            return manifest
        except CorpusError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise CorpusError(f"{path} is damaged ({repr(error)[:_QUOTED_CHARS]}): {REMEDY}") from error

    @classmethod
    def _from_fields(cls, fields: dict[str, Any]) -> "Manifest":
        splits = {
            name: SplitInfo(**{**split, "shards": [ShardInfo(**shard) for shard in split["shards"]]})
            for name, split in fields["splits"].items()
        }
        sources = {name: [Source(**source) for source in fields.get(name, [])] for name in ("sources", "val_sources")}
        sets = {name: [Source(**source) for source in named] for name, named in fields.get("val_sets", {}).items()}
        report = InputReport.from_fields(fields["report"]) if "report" in fields else InputReport()
        return cls(**{**fields, "splits": splits, **sources, "val_sets": sets, "report": report})


def _replace_last(text: bytes, old: str, new: str) -> bytes:
    before, found, after = text.rpartition(old.encode())
    if not found:
        raise ValueError("its text holds no SHA-256")
    return before + new.encode() + after


def _check(manifest: Manifest) -> None:
    """Raise ValueError or TypeError if the fields cannot be those of a corpus. Shard names become paths of files."""
    _check_types(manifest)
    if manifest.dtype not in DTYPES:
        raise ValueError(f"dtype = {manifest.dtype}")
    if not 0 <= manifest.eot_id < manifest.vocab_size:
        raise ValueError(f"eot_id = {manifest.eot_id} of a vocabulary of {manifest.vocab_size}")
    if manifest.vocab_size > limits.VOCAB_SIZE:
        raise ValueError(f"vocab_size = {manifest.vocab_size} is more than {limits.VOCAB_SIZE}")
    _check_losses(manifest)
    if not all(re.fullmatch(SET_NAME, name) for name in manifest.val_sets):
        raise ValueError("the name of a set of held-out files")
    allowed = {*SPLITS, *map(split_of_set, manifest.val_sets)}
    for name, split in manifest.splits.items():
        _check_types(split)
        if name not in allowed:
            raise ValueError(f"split {name}")
        for shard in split.shards:
            _check_types(shard)
            if not re.fullmatch(rf"{name}-[0-9]+\.tar", shard.name):
                raise ValueError(f"shard {shard.name}")
            _check_counts(shard, np.dtype(manifest.dtype).itemsize)
        if len({shard.name for shard in split.shards}) != len(split.shards):
            raise ValueError(f"a shard of split {name} is named twice")
        for field in ("num_tokens", "num_documents"):
            if sum(getattr(shard, field) for shard in split.shards) != getattr(split, field):
                raise ValueError(f"{field} of split {name} is not the sum of its shards'")


def _check_losses(manifest: Manifest) -> None:
    """Raise ValueError if a loss cannot be one."""
    for nats in (manifest.unigram_entropy_nats, manifest.held_out_unigram_nats or 0.0):
        if type(nats) is not float or not math.isfinite(nats):
            raise ValueError(f"a unigram loss is {str(nats)[:_QUOTED_CHARS]}")


def _check_counts(shard: ShardInfo, token_bytes: int) -> None:
    """Raise ValueError if a shard is too small for its tokens and samples: memory is taken for what they say."""
    if max(shard.num_tokens * token_bytes, shard.num_members * MEMBER_BYTES) > shard.size_bytes:
        raise ValueError(f"{shard.name} is too small for its {shard.num_tokens} tokens, {shard.num_members} samples")


def _check_types(record: Any) -> None:
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if (field.type is int and (type(value) is not int or not 0 <= value <= limits.CORPUS_TOKENS * 4)) or (
            field.type in (str, float) and type(value) is not field.type
        ):
            raise TypeError(f"{field.name} = {str(value)[:100]!r}")


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return the smallest type of token ids that prepare writes: uint16, or uint32 above 65,536 tokens."""
    return np.dtype("<u2") if vocab_size <= 2**16 else np.dtype("<u4")


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Return the content of a file. Raises CorpusError if it has more than `max_bytes`."""
    return files.read_bounded(path, max_bytes, lambda message: CorpusError(f"{message}: {REMEDY}"))


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
