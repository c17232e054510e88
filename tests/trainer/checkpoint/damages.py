"""Random damages of files, as disks, copies and people make them."""

import random
from collections.abc import Callable
from pathlib import Path


def flip(content: bytes, rng: random.Random) -> bytes:
    """One bit is another one."""
    bit = rng.randrange(8 * len(content))
    return flipped(content, bit)


def flipped(content: bytes, bit: int) -> bytes:
    """The content with one bit changed."""
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def truncate(content: bytes, rng: random.Random) -> bytes:
    """The end is lost."""
    return content[: rng.randrange(len(content))]


def append(content: bytes, rng: random.Random) -> bytes:
    """Bytes are added at the end."""
    return content + rng.randbytes(rng.randint(1, 100))


def insert(content: bytes, rng: random.Random) -> bytes:
    """Bytes are added somewhere."""
    place = rng.randrange(len(content))
    return content[:place] + rng.randbytes(rng.randint(1, 100)) + content[place:]


def cut(content: bytes, rng: random.Random) -> bytes:
    """Some bytes are lost somewhere."""
    start, stop = _range(content, rng)
    return content[:start] + content[stop:]


def erase(content: bytes, rng: random.Random) -> bytes:
    """Some bytes are 0, as after a power cut."""
    start, stop = _range(content, rng)
    return content[:start] + bytes(stop - start) + content[stop:]


def swap(content: bytes, rng: random.Random) -> bytes:
    """Two parts of the same size have each other's place."""
    size = rng.randint(1, len(content) // 2)
    first = rng.randint(0, len(content) - 2 * size)
    second = rng.randint(first + size, len(content) - size)
    parts = content[:first], content[second : second + size], content[first + size : second]
    return b"".join((*parts, content[first : first + size], content[second + size :]))


def _range(content: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(content))
    return start, rng.randint(start + 1, len(content))


KINDS: tuple[Callable[[bytes, random.Random], bytes], ...] = (flip, truncate, append, insert, cut, erase, swap)


def damages(content: bytes, count: int, seed: int) -> list[bytes]:
    """That many damaged contents, about as many of each kind, all of them unlike `content`."""
    rng = random.Random(seed)
    found: list[bytes] = []
    while len(found) < count:
        damaged = KINDS[len(found) % len(KINDS)](content, rng)
        if damaged != content:
            found.append(damaged)
    return found


def overwrite(path: Path, content: bytes) -> None:
    """Give a file another content. It is removed first: ext4 waits for the disk when a file is emptied and written."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)
