"""The settings of `prepare`, and the hash of settings and inputs by which a corpus is found again."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foretrain.data_pipeline.corpus.manifest import DTYPES, VERSION, sha256_of
from foretrain.data_pipeline.corpus.shard_writer import MAX_PART_BYTES
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.input_files import StrPath
from foretrain.data_pipeline.prepare.tokenizer_folder import given_tokenizer


@dataclass(frozen=True)
class PrepareSettings:
    """Everything that a corpus depends on, apart from its text."""

    vocab_size: int = 4096
    """Number of tokens of the tokenizer that is trained; ignored if one is given."""
    tokenizer_path: StrPath | None = None
    """A tokenizer.json, or a folder with one, to use instead of training one."""
    eot_token: str | None = None
    """The token that ends a document; None: the one that the folder of the tokenizer names, else `<|endoftext|>` or
    `</s>`."""
    text_key: str = "text"
    """The key of the text in .jsonl files, and in .json members of tar shards."""
    member: str | None = None
    """Extension of the member that is a sample's document, in tar shards; None: the first of tar_documents.KINDS that
    the sample has."""
    token_dtype: str = "uint16"
    """numpy's name of the little-endian integers of .bin members: uint16 or uint32."""
    skip_textless: bool = False
    """Leave out samples of tar shards that have no such member; otherwise they are an error."""
    skip_bad: bool = False
    """Leave out broken documents and files, and report them; otherwise they are an error."""
    shard_tokens: int = 1 << 27
    """A shard ends with the sample that reaches this many tokens (256 MiB at uint16)."""
    block_bytes: int = 1 << 20
    """A sample ends with the document that reaches this many bytes of tokens; 512 KiB to 4 MiB are fast to read."""
    val_fraction: float = 0.01
    """Share of the documents in the val split; 0 only with files of its own."""
    train_tokenizer_bytes: int = 64 << 20
    """Most bytes of text, taken from all over the corpus, on which the tokenizer is trained."""

    def __post_init__(self) -> None:
        for name in ("shard_tokens", "block_bytes", "train_tokenizer_bytes"):
            if getattr(self, name) < 1:
                raise CorpusError(f"{name} = {getattr(self, name)} must be greater than 0")
        if self.tokenizer_path is not None:
            given_tokenizer(Path(self.tokenizer_path))
        if self.block_bytes > MAX_PART_BYTES:
            raise CorpusError(f"block_bytes = {self.block_bytes} must be at most {MAX_PART_BYTES} (4 MiB)")
        if self.token_dtype not in DTYPES:
            raise CorpusError(f"token_dtype = {self.token_dtype} must be {' or '.join(DTYPES)}")
        if not 0 <= self.val_fraction <= 0.5:
            raise CorpusError(f"val_fraction = {self.val_fraction} must be greater than 0 and at most 0.5")

    def tokenizer_file(self) -> Path | None:
        """The tokenizer.json that is given, or None if one is trained."""
        return None if self.tokenizer_path is None else given_tokenizer(Path(self.tokenizer_path)).file

    def end_token(self) -> str | None:
        """The token that ends a document, if the user or the folder of the tokenizer names it."""
        if self.eot_token is not None or self.tokenizer_path is None:
            return self.eot_token
        return given_tokenizer(Path(self.tokenizer_path)).eot_token

    def hash_with(
        self, files: Sequence[Path], val_files: Sequence[Path], val_sets: Mapping[str, Sequence[Path]]
    ) -> str:
        """Return the hash of these settings and of the paths, sizes and times of the files, of those of the val split,
        and of those of its named sets."""
        fields = dataclasses.asdict(self)
        if not self.skip_bad:
            del fields["skip_bad"]  # as before there was this setting
        tokenizer = self.tokenizer_file()
        if tokenizer is not None:
            fields |= {"tokenizer_path": sha256_of(tokenizer), "eot_token": self.end_token()}
        record = {"version": VERSION, "files": _stats(files), "settings": fields}
        if val_files:
            record["val_files"] = _stats(val_files)
        if val_sets:
            record["val_sets"] = {name: _stats(each) for name, each in val_sets.items()}
        return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _stats(files: Sequence[Path]) -> list[tuple[str, int, int]]:
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
