"""Make a corpus: read documents, train or load a tokenizer, write shards and, last, the manifest.

1. `documents` finds and reads the text, or tokens that others made.
2. `tokenizer` is trained on part of it, or loaded.
3. `encode` chooses each document's split and turns it into tokens.
4. `shard_writer` writes the tokens of each split; `journal` says how far it has come, so that a run can go on.
5. The manifest is written, and the finished folder takes its name (`workplace`).
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from foretrain.data_pipeline.corpus.manifest import TOKENIZER, VERSION, Manifest, Source, sha256_of, token_dtype
from foretrain.data_pipeline.corpus.shard_writer import MAX_PART_BYTES
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.corpus_writer import CorpusWriter
from foretrain.data_pipeline.prepare.documents import Documents, StrPath, find_files
from foretrain.data_pipeline.prepare.encode import encode_documents, split_documents
from foretrain.data_pipeline.prepare.journal import JOURNAL, Point, read_journal
from foretrain.data_pipeline.prepare.token_members import TokenFormat
from foretrain.data_pipeline.prepare.tokenizer import (
    cut_into_pieces,
    find_eot,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
    vocab_size_of,
)
from foretrain.data_pipeline.prepare.workplace import check_is_free, locked, partial_folder, publish, remove_stale
from foretrain.progress import byte_progress, print_line

TOKEN_DTYPES = ("uint16", "uint32")


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
    """The key of the text in .jsonl files, and in .json members of tar shards."""
    member: str | None = None
    """The extension of the member that is a sample's document, in tar shards; None: the first of tar_documents.KINDS
    that the sample has."""
    token_dtype: str = "uint16"
    """numpy's name of the little-endian integers of .bin members: uint16 or uint32."""
    skip_textless: bool = False
    """Leave out samples of tar shards that have no such member; they are an error otherwise."""
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
        if self.token_dtype not in TOKEN_DTYPES:
            raise CorpusError(f"token_dtype = {self.token_dtype} must be {' or '.join(TOKEN_DTYPES)}")
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

    The folder appears whole or not at all. The same inputs and settings give the same shards, byte for byte. A run that
    is interrupted or killed, or finds the disk full, leaves what it has done in a hidden folder beside `out_dir`; the
    same call goes on from there. `overwrite` replaces a corpus; `reuse` returns at once where `is_current`. Raises
    CorpusError for inputs without text, damaged ones, settings out of range, and a folder that is taken or being made.
    """
    chosen = PrepareSettings(**settings)
    out = Path(out_dir).resolve()
    files = find_files(inputs)
    prepared_from = _prepared_from(files, chosen)
    if reuse and _is_prepared_from(out, prepared_from):
        return Manifest.read(out)
    check_is_free(out, overwrite)
    with locked(out):
        check_is_free(out, overwrite)
        partial = partial_folder(out, prepared_from)
        if remove_stale(out, but=partial):
            print_line("the inputs or settings have changed: the work of the run before is lost", enabled=progress)
        partial.mkdir(exist_ok=True)
        try:
            if not _is_prepared_from(partial, prepared_from):
                _build(partial, inputs, files, chosen, prepared_from, progress)
            manifest = Manifest.read(partial)
            (partial / JOURNAL).unlink(missing_ok=True)
            publish(partial, out)
        except BaseException as error:
            if _can_go_on(error, partial):
                print_line("stopped: the same command, run again, goes on", enabled=progress)
            else:
                shutil.rmtree(partial, ignore_errors=True)
            raise
    return manifest


def is_current(inputs: Sequence[StrPath], out_dir: StrPath, **settings: Any) -> bool:
    """Return whether `out_dir` is a finished corpus of just these inputs, unchanged since, and these settings."""
    return _is_prepared_from(Path(out_dir).resolve(), _prepared_from(find_files(inputs), PrepareSettings(**settings)))


def _can_go_on(error: BaseException, partial: Path) -> bool:
    """Whether another run could use what this one has done: it cannot where the inputs have to change before."""
    cause = error.__cause__
    is_of_inputs = isinstance(error, CorpusError) and not (isinstance(cause, OSError) and cause.errno is not None)
    return not is_of_inputs and any((partial / name).exists() for name in (TOKENIZER, JOURNAL))


def _build(
    folder: Path,
    inputs: Sequence[StrPath],
    files: list[Path],
    settings: PrepareSettings,
    prepared_from: str,
    progress: bool,
) -> None:
    """Write the shards and the manifest, from where the folder's journal says."""
    tokenizer = _make_tokenizer(folder / TOKENIZER, files, settings, progress)
    eot_id, vocab_size = find_eot(tokenizer, settings.eot_token), vocab_size_of(tokenizer)
    dtype = token_dtype(vocab_size)
    token_format = None if settings.tokenizer_path is None else TokenFormat(vocab_size, eot_id, settings.token_dtype)
    writer, point = _open_writer(folder, settings, vocab_size, progress)
    with writer:
        with _reading("tokenizing", files, settings, progress, token_format) as documents:
            splits = split_documents(documents.since(point.mark), settings.val_fraction, point.mark.num_documents)
            remaining = islice(splits, point.num_documents - point.mark.num_documents, None)
            for document in encode_documents(remaining, tokenizer, eot_id=eot_id, dtype=dtype):
                writer.add(document)
                writer.save_if_due(documents)
        if not writer.train_counts.any():
            raise CorpusError(
                f"the corpus is empty: all {len(files)} files of {', '.join(map(str, inputs))} are without text"
            )
        splits_info = writer.close()
    if documents.num_skipped:
        print_line(f"{documents.num_skipped:,} samples without text were left out", enabled=progress)

    Manifest(
        version=VERSION,
        dtype=dtype.name,
        vocab_size=vocab_size,
        eot_id=eot_id,
        tokenizer_sha256=sha256_of(folder / TOKENIZER),
        splits=splits_info,
        unigram_entropy_nats=_entropy_nats(writer.train_counts),
        num_replaced_documents=documents.num_replaced,
        sources=[_source(each) for each in inputs],
        prepared_from=prepared_from,
    ).write(folder)


def _open_writer(
    folder: Path, settings: PrepareSettings, vocab_size: int, progress: bool
) -> tuple[CorpusWriter, Point]:
    """Return the writer, and the point from which it goes on: the start, unless there is a journal of use."""
    sizes = {"block_bytes": settings.block_bytes, "shard_tokens": settings.shard_tokens}
    start = Point.start(vocab_size)
    point = read_journal(folder) or start
    try:
        writer = CorpusWriter(folder, point, **sizes)
    except CorpusError as error:
        print_line(f"{error}: starting anew", enabled=progress)
        return CorpusWriter(folder, start, **sizes), start
    if point.num_documents:
        print_line(f"going on after {point.num_documents:,} documents", enabled=progress)
    return writer, point


def _make_tokenizer(path: Path, files: list[Path], settings: PrepareSettings, progress: bool) -> Tokenizer:
    """Put a tokenizer.json at the path: a copy of the given one, or one trained on the files, unless there is one."""
    if settings.tokenizer_path is not None:
        tokenizer = load_tokenizer(Path(settings.tokenizer_path))
        find_eot(tokenizer, settings.eot_token)
        shutil.copyfile(settings.tokenizer_path, path)
        return tokenizer
    if path.exists():
        return load_tokenizer(path)
    with _reading("training the tokenizer", files, settings, progress) as documents:
        texts = _spread(documents, settings.train_tokenizer_bytes)
        tokenizer = train_tokenizer(texts, settings.vocab_size)
    save_tokenizer(tokenizer, path)
    return tokenizer


@contextmanager
def _reading(
    label: str,
    files: list[Path],
    settings: PrepareSettings,
    progress: bool,
    token_format: TokenFormat | None = None,
) -> Iterator[Documents]:
    """Yield the documents of the files, whose reading moves a progress bar."""
    total_bytes = sum(file.stat().st_size for file in files)
    with byte_progress(label, total_bytes, enabled=progress) as advance:
        yield Documents(
            files,
            text_key=settings.text_key,
            token_format=token_format,
            member=settings.member,
            skip_textless=settings.skip_textless,
            on_bytes=advance,
        )


def _spread(documents: Documents, max_bytes: int) -> Iterator[str]:
    """Yield pieces from all over the documents, some `max_bytes` of them: the first ones alone may be of one kind.

    The share to take goes by the size on disk, so where the files are packed, the pieces come from the front part.
    """
    share = min(1.0, max_bytes / max(1, documents.total_bytes))
    seen_bytes = taken_bytes = 0
    for document in documents:
        assert isinstance(document, str), "tokens are refused where a tokenizer is trained"
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
