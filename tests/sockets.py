"""Where processes listen, by the kernel's own tables of sockets."""

import ipaddress
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

_LISTENS = "0A"
"""The state of a socket that listens, in the kernel's tables."""


def listening(processes: Iterable[psutil.Process]) -> dict[str, str]:
    """Address and port of each TCP socket that one of the processes listens at, and the command that does."""
    owners: dict[str, str] = {}
    for process in processes:
        for inode in _sockets_of(process.pid):
            with suppress(psutil.Error):
                owners.setdefault(inode, " ".join(process.cmdline()))
    return {address: owners[inode] for address, inode in _listening_sockets() if inode in owners}


def on_the_network(processes: Iterable[psutil.Process]) -> dict[str, str]:
    """Those that other machines may reach."""
    found = listening(processes)
    return {place: by for place, by in found.items() if not ipaddress.ip_address(place.rpartition(":")[0]).is_loopback}


def tree(process: psutil.Process) -> list[psutil.Process]:
    """A process, its children, and theirs."""
    return [process, *process.children(recursive=True)]


def _sockets_of(pid: int) -> Iterator[str]:
    """The inodes of the sockets that a process has open."""
    with suppress(OSError):  # it has ended
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                kind, _, inode = str(descriptor.readlink()).partition(":")
                if kind == "socket":
                    yield inode.strip("[]")


def _listening_sockets() -> Iterator[tuple[str, str]]:
    """Address and port, and the inode, of each socket that listens."""
    for table in ("tcp", "tcp6"):
        with suppress(FileNotFoundError):  # a kernel without IPv6
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == _LISTENS:
                    yield _decoded(words[1]), words[9]


def _decoded(place: str) -> str:
    """An address as the kernel writes it: each 32 bits in the byte order of the machine."""
    address, _, port = place.partition(":")
    words = [bytes.fromhex(address[start : start + 8])[::-1] for start in range(0, len(address), 8)]
    packed = b"".join(words)
    if packed.startswith(bytes(10) + b"\xff\xff"):  # IPv4 at a socket of IPv6
        packed = packed[12:]
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    return f"{socket.inet_ntop(family, packed)}:{int(port, 16)}"
