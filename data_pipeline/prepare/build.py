"""Preparation of a corpus, from text to the finished folder.

1. `input_files` finds the files, and `documents` reads their text, or the tokens of another tool.
2. `tokenizer` is trained on part of the text, or loaded.
3. `encode` chooses the split of each document and encodes it; `inputs` has the user's own files of the val split.
4. `corpus_writer` writes the shards of each split, and a `journal`, from which a run that was stopped resumes.
5. The manifest is written last, and the finished folder is renamed (`output_folder`).
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from foretrain.data_pipeline.corpus.manifest import TOKENIZER, VERSION, Manifest, sha256_of, token_dtype
from foretrain.data_pipeline.corpus.report import MAX_LISTED, InputReport
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.bad_inputs import MAX_ERRORS, finding_of
from foretrain.data_pipeline.prepare.corpus_writer import CorpusWriter
from foretrain.data_pipeline.prepare.documents import DocumentReader, ReadPosition
from foretrain.data_pipeline.prepare.encode import encode_documents, split_by_file, split_documents
from foretrain.data_pipeline.prepare.input_files import StrPath
from foretrain.data_pipeline.prepare.inputs import Inputs
from foretrain.data_pipeline.prepare.journal import JOURNAL, ResumePoint, read_journal
from foretrain.data_pipeline.prepare.output_folder import (
    check_is_free,
    lock_output,
    partial_folder,
    publish,
    remove_other_partials,
)
from foretrain.data_pipeline.prepare.settings import PrepareSettings
from foretrain.data_pipeline.prepare.token_members import Document, TokenFormat
from foretrain.data_pipeline.prepare.tokenizer import (
    cut_into_pieces,
    find_eot,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
    vocab_size_of,
)
from foretrain.data_pipeline.prepare.unigrams import cross_entropy_nats, entropy_nats
from foretrain.progress import byte_progress, print_line


def prepare(
    inputs: Sequence[StrPath],
    out_dir: StrPath,
    *,
    overwrite: bool = False,
    reuse: bool = False,
    progress: bool = False,
    follow_links: bool = False,
    val_inputs: Sequence[StrPath] = (),
    val_sets: Mapping[str, Sequence[StrPath]] | None = None,
    **settings: Any,
) -> Manifest:
    """Write a corpus of the inputs' documents into `out_dir` and return its manifest; settings as in PrepareSettings.

    The folder appears only when it is complete. The same inputs and settings give the same shards, byte for byte. After
    an interruption, a kill or a full disk, the work is in a hidden folder beside `out_dir`, and the same call resumes
    from it. The files of `val_inputs` and of the named `val_sets` are the val split, and are left out of `inputs`;
    `val_fraction` is then 0 by default. Each set is a split of its own too. `overwrite` replaces a corpus; `reuse`
    returns at once if `is_current`. `follow_links`: as in `search`.

    Raises CorpusError for inputs without text, damaged inputs, settings out of range, and a folder that is in use or
    holds something else.
    """
    out = Path(out_dir).resolve()
    files = Inputs.find(inputs, val_inputs, val_sets or {}, follow_links=follow_links)
    chosen = _settings(settings, files)
    prepared_from = _hash(files, chosen)
    if reuse and _is_prepared_from(out, prepared_from):
        return Manifest.read(out)
    check_is_free(out, overwrite)
    with lock_output(out):
        check_is_free(out, overwrite)
        partial = partial_folder(out, prepared_from)
        if remove_other_partials(out, keep=partial):
            print_line(
                "the inputs or settings have changed: the unfinished work of the previous run is removed",
                enabled=progress,
            )
        partial.mkdir(exist_ok=True)
        try:
            if not _is_prepared_from(partial, prepared_from):
                _build(partial, files, chosen, prepared_from, progress)
            manifest = Manifest.read(partial)
            (partial / JOURNAL).unlink(missing_ok=True)
            publish(partial, out)
        except BaseException as error:
            if _can_resume(error, partial):
                print_line("stopped: run the same command again to resume", enabled=progress)
            else:
                shutil.rmtree(partial, ignore_errors=True)
            raise
    return manifest


def is_current(
    inputs: Sequence[StrPath],
    out_dir: StrPath,
    *,
    val_inputs: Sequence[StrPath] = (),
    val_sets: Mapping[str, Sequence[StrPath]] | None = None,
    **settings: Any,
) -> bool:
    """Return whether `out_dir` is a finished corpus of exactly these inputs and settings, and no input has changed."""
    files = Inputs.find(inputs, val_inputs, val_sets or {}, follow_links=True)
    return _is_prepared_from(Path(out_dir).resolve(), _hash(files, _settings(settings, files)))


def _hash(files: Inputs, settings: PrepareSettings) -> str:
    sets = {name: part.files for name, part in files.val_sets.items()}
    return settings.hash_with(files.train.files, files.val.files, sets)


def _settings(settings: dict[str, Any], files: Inputs) -> PrepareSettings:
    chosen = PrepareSettings(**({"val_fraction": 0.0} if files.has_held_out_files else {}) | settings)
    if chosen.val_fraction == 0 and not files.has_held_out_files:
        raise CorpusError("val_fraction = 0.0 must be greater than 0, or give your own held-out files with --val")
    return chosen


def _can_resume(error: BaseException, partial: Path) -> bool:
    """Whether another run can use the unfinished work: it cannot if the user has to change the inputs first."""
    cause = error.__cause__
    is_of_inputs = isinstance(error, CorpusError) and not (isinstance(cause, OSError) and cause.errno is not None)
    return not is_of_inputs and any((partial / name).exists() for name in (TOKENIZER, JOURNAL))


def _build(
    folder: Path,
    files: Inputs,
    settings: PrepareSettings,
    prepared_from: str,
    progress: bool,
) -> None:
    """Write the shards and the manifest; resume from the journal in the folder if there is one."""
    errors = [] if settings.skip_bad else [error for _, error in files.unopened]
    tokenizer = _make_tokenizer(folder / TOKENIZER, files.train.files, settings, progress, errors)
    eot_id, vocab_size = find_eot(tokenizer, settings.end_token()), vocab_size_of(tokenizer)
    if settings.tokenizer_path is not None:
        print_line(f"documents end with the token {tokenizer.id_to_token(eot_id)!r}", enabled=progress)
    dtype = token_dtype(vocab_size)
    token_format = None if settings.tokenizer_path is None else TokenFormat(vocab_size, eot_id, settings.token_dtype)
    writer, point = _open_writer(folder, files, settings, vocab_size, progress)
    with writer:
        with _open_documents("tokenizing", files.files, settings, progress, errors, token_format) as documents:
            start = point.position
            splits = _split(documents, files, settings.val_fraction, start)
            remaining = islice(splits, point.num_documents - start.num_documents, None)
            for document in encode_documents(remaining, tokenizer, eot_id=eot_id, dtype=dtype):
                writer.add(document)
                writer.save_if_due(documents)
        _check_is_not_empty(writer, files, _report(files, documents))
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
        unigram_entropy_nats=entropy_nats(writer.counts["train"]),
        num_replaced_documents=documents.num_replaced,
        sources=files.train.sources(),
        prepared_from=prepared_from,
        held_out_unigram_nats=cross_entropy_nats(writer.counts["val"], writer.counts["train"]),
        val_sources=files.val.sources(),
        val_sets={name: part.sources() for name, part in files.val_sets.items()},
        report=_report(files, documents),
    ).write(folder)


def _split(
    documents: DocumentReader, files: Inputs, val_fraction: float, start: ReadPosition
) -> Iterator[tuple[str, Document]]:
    """Yield the split of each document from a position on, and the document."""
    found = documents.read_from(start)
    if not files.has_held_out_files:
        return split_documents(found, val_fraction, start.num_documents)
    return split_by_file(found, lambda: files.split_of(documents.file_number), val_fraction, start.num_documents)


def _check_is_not_empty(writer: CorpusWriter, files: Inputs, report: InputReport) -> None:
    """Raise CorpusError if a split that has files of its own has no document."""
    for split, part in files.parts.items():
        if part.files and not writer.counts[split].any():
            what = "corpus" if split == "train" else f"{split} split"
            named = ", ".join(map(str, part.named))
            why = "".join(f"\n{line}" for line in report.lines(MAX_ERRORS))
            raise CorpusError(f"the {what} is empty: none of the {len(part.files)} files of {named} has any text{why}")


def _report(files: Inputs, documents: DocumentReader) -> InputReport:
    """What of the inputs is not in the corpus as it is."""
    unopened = files.unopened
    findings = [*(finding_of(str(file), error) for file, error in unopened[:MAX_LISTED]), *documents.bad]
    return InputReport(
        num_skipped=len(unopened) + documents.num_bad,
        skipped=findings[:MAX_LISTED],
        replaced=dict(documents.replaced),
        ignored=dict(files.ignored.most_common(MAX_LISTED)),
    )


def _open_writer(
    folder: Path, files: Inputs, settings: PrepareSettings, vocab_size: int, progress: bool
) -> tuple[CorpusWriter, ResumePoint]:
    """Return the writer, and the point from which it resumes: that of the journal if it can be used, else the start."""
    sizes = {"block_bytes": settings.block_bytes, "shard_tokens": settings.shard_tokens}
    in_order, start = files.has_held_out_files, ResumePoint.start(vocab_size, list(files.parts))
    point = read_journal(folder) or start
    try:
        writer = CorpusWriter(folder, point, **sizes, in_order=in_order)
    except CorpusError as error:
        print_line(f"{error}: starting again from the first document", enabled=progress)
        return CorpusWriter(folder, start, **sizes, in_order=in_order), start
    if point.num_documents:
        print_line(f"resuming after {point.num_documents:,} documents", enabled=progress)
    return writer, point


def _make_tokenizer(
    path: Path, files: list[Path], settings: PrepareSettings, progress: bool, errors: Sequence[CorpusError]
) -> Tokenizer:
    """Write tokenizer.json, a copy of the given one or one trained on the files, unless it is there; return it."""
    given = settings.tokenizer_file()
    if given is not None:
        tokenizer = load_tokenizer(given)
        find_eot(tokenizer, settings.end_token())
        shutil.copyfile(given, path)
        return tokenizer
    if path.exists():
        return load_tokenizer(path)
    with _open_documents("training the tokenizer", files, settings, progress, errors) as documents:
        texts = _pieces_from_all(documents, settings.train_tokenizer_bytes)
        tokenizer = train_tokenizer(texts, settings.vocab_size)
    save_tokenizer(tokenizer, path)
    return tokenizer


@contextmanager
def _open_documents(
    label: str,
    files: list[Path],
    settings: PrepareSettings,
    progress: bool,
    errors: Sequence[CorpusError],
    token_format: TokenFormat | None = None,
) -> Iterator[DocumentReader]:
    """Yield a reader of the files' documents that moves a progress bar."""
    total_bytes = sum(file.stat().st_size for file in files)
    with byte_progress(label, total_bytes, enabled=progress) as advance:
        yield DocumentReader(
            files,
            text_key=settings.text_key,
            token_format=token_format,
            member=settings.member,
            skip_textless=settings.skip_textless,
            skip_bad=settings.skip_bad,
            errors=errors,
            on_bytes=advance,
        )


def _pieces_from_all(documents: DocumentReader, max_bytes: int) -> Iterator[str]:
    """Yield pieces from all over the documents, about `max_bytes` in total, because the first files may be alike.

    The share to take follows from the size on disk, so the pieces of compressed files come from the front part.
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


def _is_prepared_from(folder: Path, prepared_from: str) -> bool:
    try:
        return Manifest.read(folder).prepared_from == prepared_from
    except CorpusError:
        return False
