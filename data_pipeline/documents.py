"""Iterate over the documents of files and folders, in an order that depends on their names only."""

import gzip
import io
import json
import os
import sysconfig
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import zstandard

from data_pipeline.errors import CorpusError

TEXT_SUFFIXES = (".txt", ".md", ".py")
"""One file is one document."""
LINES_SUFFIX = ".jsonl"
"""One line is one document."""
COMPRESSIONS = ("", ".gz", ".zst")
SUFFIXES = tuple(kind + packed for kind in (*TEXT_SUFFIXES, LINES_SUFFIX) for packed in COMPRESSIONS)
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "__pycache__"}
"""Never entered below an input folder: installed packages are not part of the source that holds them."""

READ_BYTES = 1 << 17

StrPath = str | os.PathLike[str]


def standard_library() -> Path:
    """Return the folder of the running Python's own source: tens of MB of text on every machine, without a download."""
    return Path(sysconfig.get_paths()["stdlib"])


def find_files(inputs: Sequence[StrPath]) -> list[Path]:
    """Return the files of the inputs: inputs in the given order, each folder's files sorted by path, none twice.

    Raises CorpusError for an input that does not exist, a file of an unknown kind, and a folder without a file.
    """
    if not inputs:
        raise CorpusError("no input was given: name files or folders of text")
    files: dict[Path, None] = {}
    for each in inputs:
        files.update(dict.fromkeys(_files_of(Path(each))))
    return list(files)


class Documents:
    """The non-empty documents of some files. Each iteration reads the files anew and counts anew.

    `num_replaced` is the number of documents that were not valid UTF-8, in which U+FFFD stands for what is not;
    `total_bytes` is the size of the files on disk, and `on_bytes` is called with the bytes of them read since the last
    call. Iterating raises CorpusError for a file that cannot be unpacked, a line that is not JSON, or one without the
    text.
    """

    def __init__(
        self, files: Sequence[Path], *, text_key: str = "text", on_bytes: Callable[[int], None] | None = None
    ) -> None:
        self.files = list(files)
        self.text_key = text_key
        self.total_bytes = sum(file.stat().st_size for file in self.files)
        self.num_replaced = 0
        self._on_bytes = on_bytes or (lambda num_bytes: None)

    def __iter__(self) -> Iterator[str]:
        self.num_replaced = 0
        for file in self.files:
            try:
                yield from self._read(file)
            except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
                raise CorpusError(f"{file} cannot be read ({error}): mend it or leave it out") from error

    def _read(self, file: Path) -> Iterator[str]:
        done_bytes = 0
        with file.open("rb") as raw:
            unpacked = _unpack(file, raw)
            lines = file.name.removesuffix(".gz").removesuffix(".zst").endswith(LINES_SUFFIX)
            for document in self._lines(file, unpacked) if lines else [self._decode(unpacked.read())]:
                if document:
                    yield document
                self._on_bytes(raw.tell() - done_bytes)
                done_bytes = raw.tell()

    def _lines(self, file: Path, unpacked: io.BufferedIOBase) -> Iterator[str]:
        for number, line in enumerate(unpacked, 1):
            if not line.isspace():
                yield self._text_of(line, f"{file}:{number}")

    def _text_of(self, line: bytes, place: str) -> str:
        try:
            record = json.loads(self._decode(line))
        except json.JSONDecodeError as error:
            raise CorpusError(f"{place} is not JSON ({error}): mend or remove this line") from error
        if not isinstance(record, dict):
            raise CorpusError(f'{place} is not a JSON object: a line must look like {{"{self.text_key}": "..."}}')
        text = record.get(self.text_key)
        if not isinstance(text, str):
            wrong = "is not a string" if self.text_key in record else "is missing"
            raise CorpusError(
                f"{place}: the key {self.text_key!r} {wrong}; keys with a string are "
                f"{[key for key, value in record.items() if isinstance(value, str)]}: choose one with --text-key"
            )
        return self._without_surrogates(text)

    def _decode(self, data: bytes) -> str:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            text = data.decode("utf-8", errors="replace")
            self.num_replaced += 1
        return text.removeprefix("\ufeff")

    def _without_surrogates(self, text: str) -> str:
        """JSON can spell half of a surrogate pair ("\\ud800"), which no UTF-8 can hold."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            self.num_replaced += 1
            return text.encode("utf-16", errors="surrogatepass").decode("utf-16", errors="replace")
        return text


def _files_of(path: Path) -> list[Path]:
    known = ", ".join(SUFFIXES)
    if path.is_dir():
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
            if name not in SKIPPED_FOLDERS and real not in seen:
                seen.add(real)
                kept.append(name)
        subfolders[:] = kept
        files += [Path(parent, name) for name in names if name.endswith(SUFFIXES)]
    for file in files:
        if not file.is_file():
            raise CorpusError(f"{file} is not a file that can be read (a broken link?): mend or remove it")
    return [file.resolve() for file in sorted(files)]


def _unpack(file: Path, raw: io.BufferedReader) -> io.BufferedIOBase:
    if file.suffix == ".gz":
        return gzip.open(raw, "rb")
    if file.suffix == ".zst":
        return io.BufferedReader(_ZstdReader(raw), READ_BYTES)
    return raw


class _ZstdReader(io.RawIOBase):
    """Reads all frames of a zstd file. zstandard's own reader ends without an error where a file is cut short."""

    def __init__(self, raw: io.BufferedReader) -> None:
        self._raw = raw
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._packed = b""
        self._unpacked = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._unpacked:
            self._packed = self._packed or self._raw.read(READ_BYTES)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("the file ends inside a zstd frame")
                return 0
            self._frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
            self._unpacked = memoryview(self._frame.decompress(self._packed))
            self._packed = self._frame.unused_data
            if self._frame.eof:
                self._frame = None
        num_bytes = min(len(buffer), len(self._unpacked))
        buffer[:num_bytes] = self._unpacked[:num_bytes]
        self._unpacked = self._unpacked[num_bytes:]
        return num_bytes
