"""The documents of files and folders, in an order that depends on their names only."""

import io
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foretrain.data_pipeline.corpus.report import MAX_LISTED, Finding
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.bad_inputs import MAX_ERRORS, SetupError, all_of, finding_of
from foretrain.data_pipeline.prepare.formats import format_of
from foretrain.data_pipeline.prepare.formats.base import Reading
from foretrain.data_pipeline.prepare.text import TextReader
from foretrain.data_pipeline.prepare.token_members import Document, TokenFormat
from foretrain.data_pipeline.prepare.unpack import READ_BYTES, UNPACK_ERRORS, unpack
from foretrain.faults import is_passing


@dataclass(frozen=True)
class ReadPosition:
    """The start of a file, from which reading can resume, with the counts of all that comes before it."""

    num_files: int = 0
    num_documents: int = 0
    num_replaced: int = 0
    num_skipped: int = 0
    num_bad: int = 0
    bad: tuple[Finding, ...] = ()
    """The first of the broken documents and files."""
    replaced: tuple[tuple[str, int], ...] = ()
    """The first files with replaced documents, and the number of these."""

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "ReadPosition":
        """The position in the record of a journal."""
        bad = tuple(Finding(**each) for each in record.pop("bad", ()))
        replaced = tuple((file, count) for file, count in record.pop("replaced", ()))
        return cls(**record, bad=bad, replaced=replaced)


class DocumentReader:
    """The non-empty documents of some files. Each iteration reads the files and counts again.

    `num_replaced` is the number of documents with invalid UTF-8, which is replaced by U+FFFD; `num_skipped` that of
    samples left out because of `skip_textless`; `total_bytes` the size of the files on disk. `on_bytes` is called with
    the bytes of them read since its last call. `token_format`, `member` and `skip_textless`: see TarDocuments.

    A broken document, such as a line that is not JSON or has no text, and the rest of a broken file, such as one that
    cannot be decompressed, are left out if `skip_bad`: `num_bad` counts them, and `bad` and `replaced` have the first.
    Otherwise no document follows the first of them, and iteration raises one CorpusError about all of them at its end.
    A fault that passes, and a SetupError, are raised at once. `errors` were found before, and count as the first ones.
    """

    def __init__(
        self,
        files: Sequence[Path],
        *,
        text_key: str = "text",
        token_format: TokenFormat | None = None,
        member: str | None = None,
        skip_textless: bool = False,
        skip_bad: bool = False,
        errors: Sequence[CorpusError] = (),
        on_bytes: Callable[[int], None] | None = None,
    ) -> None:
        self.files = list(files)
        self._sizes_bytes = [file.stat().st_size for file in self.files]
        self.total_bytes = sum(self._sizes_bytes)
        self._texts = TextReader(text_key, self._leave_out)
        self._skip_bad = skip_bad
        self._first_errors, self._errors = list(errors), list(errors)
        self.num_bad = 0
        self.bad: tuple[Finding, ...] = ()
        self.replaced: tuple[tuple[str, int], ...] = ()
        self._reading = Reading(self._texts, token_format, member, skip_textless)
        self._on_bytes = on_bytes or (lambda num_bytes: None)
        self._positions: deque[ReadPosition] = deque()
        self.file_number = 0
        """Number of the file of the last document."""

    @property
    def num_replaced(self) -> int:
        return self._texts.num_replaced

    @property
    def num_skipped(self) -> int:
        return self._reading.num_skipped

    def __iter__(self) -> Iterator[Document]:
        return self.read_from(ReadPosition())

    def read_from(self, position: ReadPosition) -> Iterator[Document]:
        """Yield the documents from a position on, without opening the files before it."""
        self._texts.num_replaced, self._reading.num_skipped = position.num_replaced, position.num_skipped
        self.num_bad, self.bad, self.replaced = position.num_bad, position.bad, position.replaced
        self._errors = self._first_errors[:MAX_ERRORS]
        self.num_bad += len(self._first_errors)
        self._positions = deque([position])
        self._on_bytes(sum(self._sizes_bytes[: position.num_files]))
        num_documents = position.num_documents
        for number in range(position.num_files, len(self.files)):
            self.file_number = number
            self._positions.append(self._position(num_documents))
            num_replaced = self.num_replaced
            try:
                for document in self._read_file(self.files[number]):
                    if not self._errors:
                        num_documents += 1
                        yield document
            except CorpusError as error:
                self._leave_out(error)
            if self.num_replaced > num_replaced and len(self.replaced) < MAX_LISTED:
                self.replaced += ((str(self.files[number]), self.num_replaced - num_replaced),)
        if self._errors:
            raise all_of(self._errors, self.num_bad) from self._errors[0].__cause__

    def _position(self, num_documents: int) -> ReadPosition:
        """The position before the file that is read next."""
        counts = (self.num_replaced, self.num_skipped, self.num_bad)
        return ReadPosition(self.file_number, num_documents, *counts, self.bad, self.replaced)

    def _leave_out(self, error: CorpusError) -> None:
        """Count an error, and keep it if it is one of the first. Raises it if it is no error of the file."""
        if isinstance(error, SetupError) or is_passing(error):
            raise error
        self.num_bad += 1
        if not self._skip_bad:
            self._errors += [error] if len(self._errors) < MAX_ERRORS else []
        elif len(self.bad) < MAX_LISTED:
            self.bad += (finding_of(str(self.files[self.file_number]), error),)

    def last_position_before(self, num_documents: int) -> ReadPosition:
        """Return this iteration's last position with at most `num_documents` before it, and forget earlier ones."""
        while len(self._positions) > 1 and self._positions[1].num_documents <= num_documents:
            self._positions.popleft()
        return self._positions[0]

    def _read_file(self, file: Path) -> Iterator[Document]:
        form = format_of(file.name)
        if form is None:
            raise CorpusError(f"{file} is of an unknown kind: no format has the end of its name")
        done_bytes = size_bytes = 0
        try:
            size_bytes = file.stat().st_size
            with _CountedFile(file) as counted, io.BufferedReader(counted, READ_BYTES) as raw:
                stream = unpack(file.name, raw) if form.may_be_compressed else raw
                with closing(form.read(stream, file, self._reading)) as documents:
                    for document in documents:
                        if len(document):
                            yield document
                        now_bytes = min(counted.num_read_bytes, size_bytes)
                        self._on_bytes(now_bytes - done_bytes)
                        done_bytes = now_bytes
                self._on_bytes(size_bytes - done_bytes)
        except UNPACK_ERRORS as error:
            raise CorpusError(f"{file} cannot be read ({error}): repair it or leave it out") from error


class _CountedFile(io.FileIO):
    """A file that counts the bytes that are read of it: some formats read the end first."""

    def __init__(self, path: os.PathLike[str]) -> None:
        super().__init__(path)
        self.num_read_bytes = 0

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        num_bytes = super().readinto(buffer)
        self.num_read_bytes += num_bytes
        return num_bytes
