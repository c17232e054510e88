"""The samples of a plain WebDataset shard, which is read from front to end, in any dialect of tar.

Ordinary tar readers stop without an error at a damaged header, or at the end of a file that was cut between two
members. Here everything that can be checked is checked: the checksum of each header, the records of extended headers,
the padding of each member, the two blocks of zeros at the end, and that only zeros follow them. The content of a member
has no checksum, unless the shard is compressed.
"""

import io
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from foretrain import limits
from foretrain.data_pipeline.errors import CorpusError
from foretrain.data_pipeline.prepare.unpack import too_large
from foretrain.printable import printable

READ_BYTES = 1 << 24
"""Bytes read at once: a damaged header may claim any size, for which no memory must be allocated."""

REFUSED_TYPES = (tarfile.GNUTYPE_SPARSE, b"M")
"""Sparse files, and the rest of a file that started on another volume: their payload is not the file's content."""
METADATA = re.compile(r"__[^/]*__($|/)")
"""Names that WebDataset reserves."""


@dataclass(frozen=True)
class Member:
    """One file of a sample."""

    name: str
    offset_bytes: int
    """Position of its header in the decompressed shard."""
    data: bytes
    """Its content; empty if it is not wanted."""


@dataclass(frozen=True)
class Sample:
    """Consecutive members with the same key, which is the path up to the first dot of the name."""

    key: str
    members: dict[str, Member] = field(default_factory=dict)
    """By extension: everything after that dot, in lower case."""

    @property
    def place(self) -> str:
        """The name and offset of the first member."""
        first = next(iter(self.members.values()))
        return f"{first.name}, at byte {first.offset_bytes}"


def read_samples(stream: io.BufferedIOBase, shard: str, is_wanted: Callable[[str], bool]) -> Iterator[Sample]:
    """Yield the samples of a shard, with the bytes of the members whose extension is wanted.

    Raises CorpusError, which names the shard and the offset, at the first fault, and for a shard with files but without
    a sample.
    """
    tar = _Tar(stream, shard)
    sample: Sample | None = None
    other_name = ""
    for file in _files(tar):
        key, extension = _key_and_extension(file.name)
        if key is None:
            other_name = other_name or file.name
            tar.read_payload(file, keep=False)
            continue
        if sample is not None and sample.key != key:
            yield sample
            sample = None
        sample = sample or Sample(key)
        if extension in sample.members:
            raise CorpusError(
                f"{shard}: {file.name}, at byte {file.header_at}: the sample {key} has two members .{extension}: "
                "rename one of them"
            )
        is_kept = is_wanted(extension)
        kept_bytes = file.num_bytes + sum(len(member.data) for member in sample.members.values())
        if is_kept and kept_bytes > limits.DOCUMENT_BYTES:
            raise too_large(f"{shard}: the sample {key}, with {file.name} at byte {file.header_at},")
        if len(sample.members) >= limits.SAMPLE_MEMBERS:
            raise CorpusError(
                f"{shard}: the sample {key} has more than {limits.SAMPLE_MEMBERS:,} members: split it, at byte "
                f"{file.header_at}"
            )
        data = tar.read_payload(file, keep=is_kept)
        sample.members[extension] = Member(file.name, file.header_at, data)
    if sample is not None:
        yield sample
    elif other_name:
        raise CorpusError(f"{shard} holds no sample: a member's name must be KEY.EXTENSION, unlike {other_name}")


def _key_and_extension(name: str) -> tuple[str | None, str]:
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    if not stem or not dot or METADATA.match(name):
        return None, ""
    return folder + slash + stem, extension.lower()


@dataclass(frozen=True)
class _File:
    name: str
    header_at: int
    num_bytes: int


class _Tar:
    """The bytes of an archive, read from front to end."""

    def __init__(self, stream: io.BufferedIOBase, shard: str) -> None:
        self._stream, self.shard = stream, shard
        self.at = 0

    def fault(self, at: int, what: str) -> CorpusError:
        return CorpusError(f"{self.shard} is damaged at byte {at}: {what}; copy the file again, or leave it out")

    def block(self) -> bytes:
        return self._take(tarfile.BLOCKSIZE, "a header, or one of the two blocks of zeros that end an archive,")

    def read_payload(self, file: _File, *, keep: bool = True) -> bytes:
        """Read past the payload and the padding of a file; return the payload if `keep`, else nothing."""
        data = b"".join(chunk if keep else b"" for chunk in self._chunks(file.num_bytes, file.name))
        at = self.at
        if self._take(-at % tarfile.BLOCKSIZE, f"the padding of {file.name}").strip(b"\0"):
            raise self.fault(at, f"the padding of {file.name} is not zero")
        return data

    def read_header(self, file: _File) -> bytes:
        """Return the payload of an extended header."""
        if file.num_bytes > limits.TAR_HEADER_BYTES:
            raise self.fault(file.header_at, f"{file.name} has more than {limits.TAR_HEADER_BYTES:,} bytes")
        return self.read_payload(file)

    def check_records(self, records: dict[str, str], at: int) -> None:
        """Raise CorpusError if extended headers have too many different records."""
        if len(records) > limits.TAR_RECORDS:
            raise self.fault(at, f"extended headers have more than {limits.TAR_RECORDS:,} records")

    def end(self) -> None:
        """Check that one more block of zeros follows the first one, and only zeros up to the end of the file."""
        at = self.at
        rest = self.block()
        while rest:
            if rest.strip(b"\0"):
                raise self.fault(at, "the archive ends here, but bytes other than zero follow")
            rest = self._stream.read(READ_BYTES)

    def _take(self, num_bytes: int, what: str) -> bytes:
        return b"".join(self._chunks(num_bytes, what))

    def _chunks(self, num_bytes: int, what: str) -> Iterator[bytes]:
        start = self.at
        while num_bytes:
            chunk = self._stream.read(min(num_bytes, READ_BYTES))
            if not chunk:
                raise self.fault(start, f"{what} is cut short, as the file ends at byte {self.at}")
            self.at += len(chunk)
            num_bytes -= len(chunk)
            yield chunk


def _files(tar: _Tar) -> Iterator[_File]:
    """Yield each regular file; the caller must then read its payload.

    Extended headers of pax and GNU tar, which describe the next member, are merged with that member's own header.
    """
    for_all: dict[str, str] = {}
    extended: dict[str, str] = {}
    start: int | None = None
    while True:
        at = tar.at
        block = tar.block()
        if not block.strip(b"\0"):
            if start is not None:
                raise tar.fault(at, "the archive ends between an extended header and its member")
            tar.end()
            return
        header = _header(tar, block, at)
        if header.type == tarfile.XGLTYPE:
            for_all |= _records(tar, header, at)
            tar.check_records(for_all, at)
        elif header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            extended |= _records(tar, header, at)
            tar.check_records(extended, at)
            start = at if start is None else start
        elif header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            long = _decode(tar.read_header(_File("a long name", at, header.size)).split(b"\0")[0])
            extended |= {"path" if header.type == tarfile.GNUTYPE_LONGNAME else "linkpath": long}
            start = at if start is None else start
        else:
            file = _file(tar, header, at if start is None else start, for_all | extended)
            extended, start = {}, None
            if header.isreg():
                yield file
            else:
                tar.read_payload(file, keep=False)


def _header(tar: _Tar, block: bytes, at: int) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")  # checks the checksum
    except tarfile.HeaderError as error:
        raise tar.fault(at, f"this is no header of a tar file ({error})") from error
    if header.size < 0:
        raise tar.fault(at, f"{header.name} has a size of {header.size} bytes")
    return header


def _file(tar: _Tar, header: tarfile.TarInfo, at: int, extended: dict[str, str]) -> _File:
    name = printable(extended.get("path", header.name), kept="")  # no name of a member can break a line of a message
    size = extended.get("size", str(header.size))
    if header.type in REFUSED_TYPES or any(key.startswith("GNU.sparse.") for key in extended):
        raise CorpusError(
            f"{tar.shard}: {name}, at byte {at}, is sparse, or from another volume: write the shard without --sparse "
            "and --multi-volume"
        )
    if not re.fullmatch("[0-9]{1,18}", size):
        raise tar.fault(at, f"{name} has a size of {size!r} bytes")
    # A known type without a payload (a link, a folder) may have a size all the same; an unknown type has a payload.
    has_payload = header.isreg() or header.type not in tarfile.SUPPORTED_TYPES
    return _File(name, at, int(size) if has_payload else 0)


def _records(tar: _Tar, header: tarfile.TarInfo, at: int) -> dict[str, str]:
    """Return the records "LENGTH KEY=VALUE\\n" of an extended header (POSIX.1-2008, pax)."""
    data = tar.read_header(_File("an extended header", at, header.size))
    records: dict[str, str] = {}
    start = 0
    while start < len(data):
        digits, space, _ = data[start : start + 20].partition(b" ")
        end = start + (int(digits) if digits.isdigit() else 0)
        key, equals, value = data[start + len(digits) + 1 : end].partition(b"=")
        if not space or not key or not equals or end > len(data) or not value.endswith(b"\n"):
            raise tar.fault(at, "this extended header is damaged")
        records[_decode(key)] = _decode(value[:-1])
        start = end
    return records


def _decode(name: bytes) -> str:
    return name.decode("utf-8", errors="backslashreplace")
