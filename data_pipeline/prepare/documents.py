"""The documents of files and folders, in an order that depends on their names only."""

import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.input_files import LINES_SUFFIX, TAR_SUFFIX
from foretrain.data_pipeline.prepare.tar_documents import Document, TarDocuments
from foretrain.data_pipeline.prepare.text import TextReader
from foretrain.data_pipeline.prepare.token_members import TokenFormat
from foretrain.data_pipeline.prepare.unpack import UNPACK_ERRORS, read_document, unpack, without_compression


@dataclass(frozen=True)
class ReadPosition:
    """The start of a file, from which reading can resume, with the counts of all that comes before it."""

    num_files: int = 0
    num_documents: int = 0
    num_replaced: int = 0
    num_skipped: int = 0


class DocumentReader:
    """The non-empty documents of some files. Each iteration reads the files and counts again.

    `num_replaced` is the number of documents with invalid UTF-8, which is replaced by U+FFFD; `num_skipped` that of
    samples left out because of `skip_textless`; `total_bytes` the size of the files on disk. `on_bytes` is called with
    the bytes of them read since its last call. `token_format`, `member` and `skip_textless`: see TarDocuments.

    Iteration raises CorpusError for a file that cannot be decompressed, a line that is not JSON or has no text, and for
    damaged shards.
    """

    def __init__(
        self,
        files: Sequence[Path],
        *,
        text_key: str = "text",
        token_format: TokenFormat | None = None,
        member: str | None = None,
        skip_textless: bool = False,
        on_bytes: Callable[[int], None] | None = None,
    ) -> None:
        self.files = list(files)
        self._sizes_bytes = [file.stat().st_size for file in self.files]
        self.total_bytes = sum(self._sizes_bytes)
        self._texts = TextReader(text_key)
        self._tars = TarDocuments(self._texts, token_format, member, skip_textless)
        self._on_bytes = on_bytes or (lambda num_bytes: None)
        self._positions: deque[ReadPosition] = deque()

    @property
    def num_replaced(self) -> int:
        return self._texts.num_replaced

    @property
    def num_skipped(self) -> int:
        return self._tars.num_skipped

    def __iter__(self) -> Iterator[Document]:
        return self.read_from(ReadPosition())

    def read_from(self, position: ReadPosition) -> Iterator[Document]:
        """Yield the documents from a position on, without opening the files before it."""
        self._texts.num_replaced, self._tars.num_skipped = position.num_replaced, position.num_skipped
        self._positions = deque([position])
        self._on_bytes(sum(self._sizes_bytes[: position.num_files]))
        num_documents = position.num_documents
        for number in range(position.num_files, len(self.files)):
            self._positions.append(ReadPosition(number, num_documents, self.num_replaced, self.num_skipped))
            for document in self._read_file(self.files[number]):
                num_documents += 1
                yield document

    def last_position_before(self, num_documents: int) -> ReadPosition:
        """Return this iteration's last position with at most `num_documents` before it, and forget earlier ones."""
        while len(self._positions) > 1 and self._positions[1].num_documents <= num_documents:
            self._positions.popleft()
        return self._positions[0]

    def _read_file(self, file: Path) -> Iterator[Document]:
        done_bytes = 0
        try:
            with file.open("rb") as raw:
                for document in self._documents(file, unpack(file.name, raw)):
                    if len(document):
                        yield document
                    self._on_bytes(raw.tell() - done_bytes)
                    done_bytes = raw.tell()
                self._on_bytes(raw.tell() - done_bytes)
        except UNPACK_ERRORS as error:
            raise CorpusError(f"{file} cannot be read ({error}): repair it or leave it out") from error

    def _documents(self, file: Path, unpacked: io.BufferedIOBase) -> Iterator[Document]:
        name = without_compression(file.name)
        if name.endswith(TAR_SUFFIX):
            return self._tars.read(unpacked, str(file))
        if name.endswith(LINES_SUFFIX):
            return self._texts.read_lines(unpacked, str(file))
        return iter([self._texts.decode(read_document(unpacked, str(file)))])
