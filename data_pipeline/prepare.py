"""Make a corpus: read documents, train or load a tokenizer, write shards and, last, the manifest.

1. `documents` finds and reads the text.
2. `tokenizer` is trained on part of it, or loaded.
3. `encode` chooses each document's split and turns it into tokens.
4. `shard_writer` writes the tokens of each split.
5. The manifest is written, and the finished folder takes its name.
"""

import dataclasses
import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from data_pipeline.documents import Documents, StrPath, find_files
from data_pipeline.encode import encode_documents, split_documents
from data_pipeline.errors import CorpusError
from data_pipeline.manifest import MANIFEST, SPLITS, TOKENIZER, VERSION, Manifest, Source, sha256_of, token_dtype
from data_pipeline.progress import byte_progress
from data_pipeline.shard_writer import MAX_PART_BYTES, SplitWriter
from data_pipeline.tokenizer import cut_into_pieces, find_eot, load_tokenizer, train_tokenizer, vocab_size_of


@dataclass(frozen=True)
class PrepareSettings:
    """What a corpus depends on, apart from its text."""

    vocab_size: int = 4096
    """Tokens of the tokenizer that is trained; ignored where one is given."""
    tokenizer_path: StrPath | None = None
    """A tokenizer.json to use instead of training one."""
    eot_token: str | None = None
    """The token that ends a document; None: `<|endoftext|>` or `</s>`."""
    text_key: str = "text"
    """The key of the text in .jsonl files."""
    shard_tokens: int = 1 << 27
    """A shard closes past this many tokens (256 MiB at uint16)."""
    block_bytes: int = 1 << 20
    """A member closes past this many bytes of tokens; 512 KiB to 4 MiB read fast."""
    val_fraction: float = 0.01
    """Share of the documents that is held out."""
    train_tokenizer_bytes: int = 64 << 20
    """At most this much text, spread over the corpus, trains the tokenizer."""

    def __post_init__(self) -> None:
        for name in ("shard_tokens", "block_bytes", "train_tokenizer_bytes"):
            if getattr(self, name) < 1:
                raise CorpusError(f"{name} = {getattr(self, name)} must be greater than 0")
        if self.tokenizer_path is not None and not Path(self.tokenizer_path).is_file():
            raise CorpusError(f"tokenizer_path = {self.tokenizer_path} does not exist: give a tokenizer.json")
        if self.block_bytes > MAX_PART_BYTES:
            raise CorpusError(f"block_bytes = {self.block_bytes} must be at most {MAX_PART_BYTES} (4 MiB)")
        if not 0 < self.val_fraction <= 0.5:
            raise CorpusError(f"val_fraction = {self.val_fraction} must be greater than 0 and at most 0.5")


def prepare(
    inputs: Sequence[StrPath],
    out_dir: StrPath,
    *,
    overwrite: bool = False,
    reuse: bool = False,
    progress: bool = False,
    **settings: Any,
) -> Manifest:
    """Write a corpus of the inputs' documents into `out_dir` and return its manifest; settings as in PrepareSettings.

    The folder appears whole or not at all. The same inputs and settings give the same shards, byte for byte.
    `overwrite` replaces a corpus; `reuse` returns at once where `is_current`. Raises CorpusError for inputs without
    text, settings out of range, and a folder that is taken.
    """
    chosen = PrepareSettings(**settings)
    out = Path(out_dir).resolve()
    files = find_files(inputs)
    prepared_from = _prepared_from(files, chosen)
    if reuse and _is_prepared_from(out, prepared_from):
        return Manifest.read(out)
    _check_is_free(out, overwrite)

    partial = out.with_name(f".{out.name}.partial-{secrets.token_hex(4)}")
    partial.mkdir(parents=True)
    try:
        manifest = _build(partial, inputs, files, chosen, prepared_from, progress)
        _publish(partial, out)
    except BaseException:  # Ctrl-C too must leave nothing half-done
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


def is_current(inputs: Sequence[StrPath], out_dir: StrPath, **settings: Any) -> bool:
    """Return whether `out_dir` is a finished corpus of just these inputs, unchanged since, and these settings."""
    return _is_prepared_from(Path(out_dir).resolve(), _prepared_from(find_files(inputs), PrepareSettings(**settings)))


def _build(
    folder: Path,
    inputs: Sequence[StrPath],
    files: list[Path],
    settings: PrepareSettings,
    prepared_from: str,
    progress: bool,
) -> Manifest:
    tokenizer = _make_tokenizer(folder / TOKENIZER, files, settings, progress)
    eot_id, vocab_size = find_eot(tokenizer, settings.eot_token), vocab_size_of(tokenizer)
    dtype = token_dtype(vocab_size)
    train_counts = np.zeros(vocab_size, dtype=np.int64)
    writers = {
        split: SplitWriter(folder, split, block_bytes=settings.block_bytes, shard_tokens=settings.shard_tokens)
        for split in SPLITS
    }
    with _reading("tokenizing", files, settings, progress) as documents:
        splits = split_documents(documents, settings.val_fraction)
        for document in encode_documents(splits, tokenizer, eot_id=eot_id, dtype=dtype):
            writers[document.split].add(document.tokens, document.num_text_bytes)
            if document.split == "train":
                np.add.at(train_counts, document.tokens, 1)
    if not train_counts.any():
        raise CorpusError(
            f"the corpus is empty: all {len(files)} files of {', '.join(map(str, inputs))} are without text"
        )

    manifest = Manifest(
        version=VERSION,
        dtype=dtype.name,
        vocab_size=vocab_size,
        eot_id=eot_id,
        tokenizer_sha256=sha256_of(folder / TOKENIZER),
        splits={split: writer.close() for split, writer in writers.items()},
        unigram_entropy_nats=_entropy_nats(train_counts),
        num_replaced_documents=documents.num_replaced,
        sources=[_source(each) for each in inputs],
        prepared_from=prepared_from,
    )
    manifest.write(folder)
    return manifest


def _make_tokenizer(path: Path, files: list[Path], settings: PrepareSettings, progress: bool) -> Tokenizer:
    """Put a tokenizer.json at the path: a copy of the given one, or one trained on the files."""
    if settings.tokenizer_path is not None:
        tokenizer = load_tokenizer(Path(settings.tokenizer_path))
        find_eot(tokenizer, settings.eot_token)
        shutil.copyfile(settings.tokenizer_path, path)
        return tokenizer
    with _reading("training the tokenizer", files, settings, progress) as documents:
        texts = _spread(documents, settings.train_tokenizer_bytes)
        tokenizer = train_tokenizer(texts, settings.vocab_size)
    tokenizer.save(str(path))
    return tokenizer


@contextmanager
def _reading(label: str, files: list[Path], settings: PrepareSettings, progress: bool) -> Iterator[Documents]:
    """Yield the documents of the files, whose reading moves a progress bar."""
    total_bytes = sum(file.stat().st_size for file in files)
    with byte_progress(label, total_bytes, enabled=progress) as advance:
        yield Documents(files, text_key=settings.text_key, on_bytes=advance)


def _spread(documents: Documents, max_bytes: int) -> Iterator[str]:
    """Yield pieces from all over the documents, some `max_bytes` of them: the first ones alone may be of one kind.

    The share to take goes by the size on disk, so where the files are packed, the pieces come from the front part.
    """
    share = min(1.0, max_bytes / max(1, documents.total_bytes))
    seen_bytes = taken_bytes = 0
    for document in documents:
        for piece in cut_into_pieces(document):
            num_bytes = len(piece.encode("utf-8"))
            if taken_bytes <= share * seen_bytes:
                yield piece
                taken_bytes += num_bytes
            seen_bytes += num_bytes
            if taken_bytes >= max_bytes:
                return


def _entropy_nats(counts: npt.NDArray[np.int64]) -> float:
    frequencies = counts[counts > 0] / counts.sum()
    return float(-(frequencies * np.log(frequencies)).sum())


def _source(each: StrPath) -> Source:
    files = find_files([each])
    return Source(str(Path(each).resolve()), len(files), sum(file.stat().st_size for file in files))


def _prepared_from(files: list[Path], settings: PrepareSettings) -> str:
    fields = dataclasses.asdict(settings)
    if settings.tokenizer_path is not None:
        fields["tokenizer_path"] = sha256_of(Path(settings.tokenizer_path))
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    record = {"version": VERSION, "files": stats, "settings": fields}
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _is_prepared_from(folder: Path, prepared_from: str) -> bool:
    try:
        return Manifest.read(folder).prepared_from == prepared_from
    except CorpusError:
        return False


def _check_is_free(out: Path, overwrite: bool) -> None:
    """Raise CorpusError unless the folder may be replaced: only what prepare wrote is ever deleted."""
    if not out.exists():
        return
    if not out.is_dir():
        raise CorpusError(f"{out} is a file: choose a folder to write the corpus into")
    entries = sorted(out.iterdir())
    foreign = [entry.name for entry in entries if not _is_ours(entry)]
    if foreign:
        raise CorpusError(f"{out} holds {foreign[0]}, which is no part of a corpus: choose another folder")
    if entries and not overwrite:
        raise CorpusError(f"{out} already holds a corpus: choose another folder, or replace it with --overwrite")


def _is_ours(entry: Path) -> bool:
    return entry.name in (MANIFEST, TOKENIZER) or any(entry.match(f"{split}-*.tar") for split in SPLITS)


def _publish(partial: Path, out: Path) -> None:
    """Give the finished folder its name; a corpus that was there disappears only then."""
    if not out.exists():
        partial.replace(out)
        return
    old = out.with_name(f".{out.name}.old-{secrets.token_hex(4)}")
    out.replace(old)
    try:
        partial.replace(out)
    except BaseException:
        old.replace(out)
        raise
    shutil.rmtree(old)
