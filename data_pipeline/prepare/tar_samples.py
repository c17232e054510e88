"""Read the samples of a plain WebDataset shard from front to end, in whatever dialect of tar it was written.

Ordinary tar readers end quietly at a damaged header, or where a file was cut between two members. Here all that can be
checked is: the checksum of each header, the records of extended headers, the zeros that pad each member, the two blocks
of zeros at the end, and that nothing follows them. A payload has no checksum, unless the shard is packed.
"""

import io
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from foretrain.data_pipeline.errors import CorpusError

READ_BYTES = 1 << 24
"""A header may claim any size: memory is taken for what there is, not for what is claimed."""

REFUSED_TYPES = (tarfile.GNUTYPE_SPARSE, b"M")
"""Files with holes, and the rest of a file that began on another volume: their payload is not the file's bytes."""
METADATA = re.compile(r"__[^/]*__($|/)")
"""Names that WebDataset keeps for itself."""


@dataclass(frozen=True)
class Member:
    """One file of a sample."""

    name: str
    offset_bytes: int
    """Of its header in the shard, unpacked where that is packed."""
    data: bytes | None
    """None where it is not wanted."""


@dataclass(frozen=True)
class Sample:
    """Members in a row with the same key, which is the path up to the first dot of the name."""

    key: str
    members: dict[str, Member] = field(default_factory=dict)
    """By extension: all that follows that dot, in lower case."""

    @property
    def place(self) -> str:
        """The name and offset of the first member."""
        first = next(iter(self.members.values()))
        return f"{first.name}, at byte {first.offset_bytes}"


def read_samples(stream: io.BufferedIOBase, shard: str, is_wanted: Callable[[str], bool]) -> Iterator[Sample]:
    """Yield the samples of a shard, with the bytes of the members whose extension is wanted.

    Raises CorpusError, which names the shard and the offset, at the first fault, and for a shard that holds files but
    no sample.
    """
    tar = _Tar(stream, shard)
    sample: Sample | None = None
    stranger = ""
    for file in _files(tar):
        key, extension = _key_and_extension(file.name)
        if key is None:
            stranger = stranger or file.name
            tar.take(file, keep=False)
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
        sample.members[extension] = Member(file.name, file.header_at, tar.take(file, keep=is_wanted(extension)))
    if sample is not None:
        yield sample
    elif stranger:
        raise CorpusError(f"{shard} holds no sample: a member's name must be KEY.EXTENSION, unlike {stranger}")


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
    """The bytes of an archive, taken from front to end."""

    def __init__(self, stream: io.BufferedIOBase, shard: str) -> None:
        self._stream, self.shard = stream, shard
        self.at = 0

    def fault(self, at: int, what: str) -> CorpusError:
        return CorpusError(f"{self.shard} is damaged at byte {at}: {what}; copy it anew, or leave it out")

    def block(self) -> bytes:
        return self._take(tarfile.BLOCKSIZE, "a header, or one of the two blocks of zeros that end an archive,")

    def payload(self, file: _File) -> bytes:
        data = self._take(file.num_bytes, file.name)
        self._pad(file.name)
        return data

    def take(self, file: _File, *, keep: bool) -> bytes | None:
        """Go past the payload of a file, and return it if it is to be kept."""
        if keep:
            return self.payload(file)
        for _ in self._chunks(file.num_bytes, file.name):
            pass
        self._pad(file.name)
        return None

    def end(self) -> None:
        """Check that what follows the first block of zeros is one more, and zeros to the end of the file."""
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

    def _pad(self, name: str) -> None:
        at = self.at
        if self._take(-at % tarfile.BLOCKSIZE, f"the padding of {name}").strip(b"\0"):
            raise self.fault(at, f"the padding of {name} is not zero")


def _files(tar: _Tar) -> Iterator[_File]:
    """Yield each regular file, whose payload is then to be taken or skipped.

    Headers of pax and of GNU tar that say more about the member to come are joined with that member's own.
    """
    common: dict[str, str] = {}
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
            common |= _records(tar, header, at)
        elif header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            extended |= _records(tar, header, at)
            start = at if start is None else start
        elif header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            long = _decode(tar.payload(_File("a long name", at, header.size)).split(b"\0")[0])
            extended |= {"path" if header.type == tarfile.GNUTYPE_LONGNAME else "linkpath": long}
            start = at if start is None else start
        else:
            file = _file(tar, header, at if start is None else start, common | extended)
            extended, start = {}, None
            if header.isreg():
                yield file
            else:
                tar.take(file, keep=False)


def _header(tar: _Tar, block: bytes, at: int) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")  # compares the checksum
    except tarfile.HeaderError as error:
        raise tar.fault(at, f"this is no header of a tar file ({error})") from error
    if header.size < 0:
        raise tar.fault(at, f"{header.name} has a size of {header.size} bytes")
    return header


def _file(tar: _Tar, header: tarfile.TarInfo, at: int, extended: dict[str, str]) -> _File:
    name, size = extended.get("path", header.name), extended.get("size", str(header.size))
    if header.type in REFUSED_TYPES or any(key.startswith("GNU.sparse.") for key in extended):
        raise CorpusError(
            f"{tar.shard}: {name}, at byte {at}, is sparse, or from another volume: write the shard without --sparse "
            "and --multi-volume"
        )
    if not re.fullmatch("[0-9]{1,18}", size):
        raise tar.fault(at, f"{name} has a size of {size!r} bytes")
    # What tar knows not to have a payload has none, whatever its size says; what tar does not know has one.
    has_payload = header.isreg() or header.type not in tarfile.SUPPORTED_TYPES
    return _File(name, at, int(size) if has_payload else 0)


def _records(tar: _Tar, header: tarfile.TarInfo, at: int) -> dict[str, str]:
    """Return the records "LENGTH KEY=VALUE\\n" of an extended header (POSIX.1-2008, pax)."""
    data = tar.payload(_File("an extended header", at, header.size))
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
