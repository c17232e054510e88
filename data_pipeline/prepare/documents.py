"""Iterate over the documents of files and folders, in an order that depends on their names only."""

import io
import os
import re
import sysconfig
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from foretrain.data_pipeline.corpus.manifest import MANIFEST, TOKENIZER
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.tar_documents import Document, TarDocuments
from foretrain.data_pipeline.prepare.text import TextReader
from foretrain.data_pipeline.prepare.token_members import TokenFormat
from foretrain.data_pipeline.prepare.unpack import COMPRESSIONS, UNPACK_ERRORS, unpack, without_compression

TEXT_SUFFIXES = (".txt", ".md", ".py")
"""One file is one document."""
LINES_SUFFIX = ".jsonl"
"""One line is one document."""
TAR_SUFFIX = ".tar"
"""A plain WebDataset shard: one sample is one document, or more."""
SUFFIXES = tuple(kind + packed for kind in (*TEXT_SUFFIXES, LINES_SUFFIX, TAR_SUFFIX) for packed in COMPRESSIONS)
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "__pycache__"}
"""Never entered below an input folder: installed packages are not part of the source that holds them."""

UNFINISHED = re.compile(r"\..+\.(partial|old)-[0-9a-f]{8}")
"""Names of the hidden folders of a corpus that is being made (see `workplace`)."""

StrPath = str | os.PathLike[str]


def standard_library() -> Path:
    """Return the folder of the running Python's own source: tens of MB of text on every machine, without a download."""
    return Path(sysconfig.get_paths()["stdlib"])


def find_files(inputs: Sequence[StrPath]) -> list[Path]:
    """Return the files of the inputs: inputs in the given order, each folder's files sorted by path, none twice.

    A corpus below a folder is left out: it may be the one that an earlier run made of this very folder. Raises
    CorpusError for an input that does not exist, is a corpus, a file of an unknown kind, or a folder without a file.
    """
    if not inputs:
        raise CorpusError("no input was given: name files or folders of text")
    files: dict[Path, None] = {}
    for each in inputs:
        files.update(dict.fromkeys(_files_of(Path(each))))
    return list(files)


@dataclass(frozen=True)
class Mark:
    """The beginning of a file, from which one can go on: what has come before it."""

    num_files: int = 0
    num_documents: int = 0
    num_replaced: int = 0
    num_skipped: int = 0


class Documents:
    """The non-empty documents of some files. Each iteration reads the files anew and counts anew.

    `num_replaced` is the number of documents that were not valid UTF-8, in which U+FFFD stands for what is not;
    `num_skipped` that of samples left out, as `skip_textless` asks; `total_bytes` is the size of the files on disk, and
    `on_bytes` is called with the bytes of them read since the last call. Iterating raises CorpusError for a file that
    cannot be unpacked, a line that is not JSON, or one without the text, and for damaged shards. `token_format`,
    `member` and `skip_textless`: see TarDocuments.
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
        self._marks: deque[Mark] = deque()

    @property
    def num_replaced(self) -> int:
        return self._texts.num_replaced

    @property
    def num_skipped(self) -> int:
        return self._tars.num_skipped

    def __iter__(self) -> Iterator[Document]:
        return self.since(Mark())

    def since(self, mark: Mark) -> Iterator[Document]:
        """Yield the documents from a mark on, without opening the files before it."""
        self._texts.num_replaced, self._tars.num_skipped = mark.num_replaced, mark.num_skipped
        self._marks = deque([mark])
        self._on_bytes(sum(self._sizes_bytes[: mark.num_files]))
        num_documents = mark.num_documents
        for number in range(mark.num_files, len(self.files)):
            self._marks.append(Mark(number, num_documents, self.num_replaced, self.num_skipped))
            for document in self._read(self.files[number]):
                num_documents += 1
                yield document

    def mark_before(self, num_documents: int) -> Mark:
        """Return this iteration's last mark with at most so many documents before it, and forget earlier marks."""
        while len(self._marks) > 1 and self._marks[1].num_documents <= num_documents:
            self._marks.popleft()
        return self._marks[0]

    def _read(self, file: Path) -> Iterator[Document]:
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
            raise CorpusError(f"{file} cannot be read ({error}): mend it or leave it out") from error

    def _documents(self, file: Path, unpacked: io.BufferedIOBase) -> Iterator[Document]:
        name = without_compression(file.name)
        if name.endswith(TAR_SUFFIX):
            return self._tars.of(unpacked, str(file))
        if name.endswith(LINES_SUFFIX):
            return self._texts.of_lines(unpacked, str(file))
        return iter([self._texts.decode(unpacked.read())])


def _files_of(path: Path) -> list[Path]:
    known = ", ".join(SUFFIXES)
    if path.is_dir():
        if _is_corpus(path):
            raise CorpusError(f"{path} is a corpus of tokens already: train on it, or give the text it was made of")
        files = _walk(path)
        if not files:
            raise CorpusError(f"{path} holds no file that can be read: names must end in one of {known}")
        return files
    if not path.exists():
        raise CorpusError(f"{path} does not exist: give files or folders of text ({known})")
    if not path.name.endswith(SUFFIXES):
        raise CorpusError(f"{path} is of an unknown kind: its name must end in one of {known}")
    return [path.resolve()]


def _walk(folder: Path) -> list[Path]:
    """Follow links to folders, each real folder once, so that a corpus of links works and a loop of links ends."""
    files, seen = [], {os.path.realpath(folder)}
    for parent, subfolders, names in os.walk(folder, followlinks=True):
        kept = []
        for name in sorted(subfolders):
            real = os.path.realpath(Path(parent, name))
            if name not in SKIPPED_FOLDERS and real not in seen and not _is_corpus(Path(parent, name)):
                seen.add(real)
                kept.append(name)
        subfolders[:] = kept
        files += [Path(parent, name) for name in names if name.endswith(SUFFIXES)]
    for file in files:
        if not file.is_file():
            raise CorpusError(f"{file} is not a file that can be read (a broken link?): mend or remove it")
    return [file.resolve() for file in sorted(files) if not _is_test_data(file.resolve())]


def _is_corpus(folder: Path) -> bool:
    if UNFINISHED.fullmatch(folder.name):
        return True
    return all((folder / name).is_file() for name in (MANIFEST, TOKENIZER))


def _is_test_data(file: Path) -> bool:
    """Python's own library holds archives, some of them broken on purpose, for the tests of its tar reader."""
    return TAR_SUFFIX in file.suffixes and file.is_relative_to(standard_library().resolve() / "test")
