"""A thousand alterations of shards, and who notices each: `verify`, opening a corpus, and plain webdataset.

`python -m tests.data_pipeline.corpus.alterations` prints the number of each kind that is noticed.
"""

import dataclasses
import io
import random
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds

from foretrain.data_pipeline.corpus.manifest import DTYPES, MANIFEST, TOKENIZER, VERSION, Manifest, SplitInfo, sha256_of
from foretrain.data_pipeline.corpus.shard_writer import SplitWriter
from foretrain.data_pipeline.corpus.shards import open_corpus
from foretrain.data_pipeline.corpus.structure import BLOCK_BYTES, NPY_HEADER_BYTES
from foretrain.data_pipeline.corpus.verify import verify
from foretrain.data_pipeline.errors import CorpusError

VOCAB_SIZE = 200
NUM_ALTERATIONS = 1000

Files = dict[str, bytes]
"""The bytes of shards, by name."""


@dataclass(frozen=True)
class Alteration:
    """Shards whose bytes differ from those that were written."""

    kind: str
    files: Files
    """The altered shards; a missing shard has no bytes."""


@dataclass(frozen=True)
class Outcome:
    """Which readers raised an error about an alteration."""

    kind: str
    verify: bool
    open_corpus: bool
    """Opening the corpus and reading all tokens, which does not check every bit."""
    webdataset: bool


def write_corpus(folder: Path, num_shards: int = 2) -> Path:
    """Write a corpus of a few small shards, most of whose bytes are tokens."""
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True)
    splits = {}
    for split, count in (("train", num_shards), ("val", 1)):
        writer = SplitWriter(folder, split, block_bytes=2000, shard_tokens=3000)
        for _ in range(count * 30):
            document = draw.integers(1, VOCAB_SIZE, 100, dtype=DTYPES[0])
            document[-1] = 0
            writer.add(document, num_text_bytes=100)
        splits[split] = writer.close()
    return write_manifest(folder, splits)


def write_manifest(folder: Path, splits: dict[str, SplitInfo], **fields: Any) -> Path:
    """Write the manifest of a folder: the present one with these splits and fields, or a new one."""
    if (folder / MANIFEST).exists():
        manifest = Manifest.read(folder)
    else:
        (folder / TOKENIZER).write_text("{}")
        sha256 = sha256_of(folder / TOKENIZER)
        manifest = Manifest(VERSION, DTYPES[0], VOCAB_SIZE, 0, sha256, {}, 1.0, 0, [], prepared_from="")
    dataclasses.replace(manifest, splits=splits, **fields).write(folder)
    return folder


def alterations(shards: Files, count: int, seed: int = 0) -> Iterator[Alteration]:
    """Yield `count` alterations of a corpus's shards, of all kinds in turn. In each, some bytes differ."""
    draw = random.Random(seed)
    num_made = 0
    while num_made < count:
        kind = list(KINDS)[num_made % len(KINDS)]
        files = KINDS[kind](draw, shards)
        if any(files[name] != shards[name] for name in files):  # zeros over zeros are no alteration
            yield Alteration(kind, files)
            num_made += 1


def outcomes(folder: Path, count: int = NUM_ALTERATIONS, seed: int = 0) -> Iterator[Outcome]:
    """Alter the shards of a corpus, one alteration after the other, yield who noticed, and restore the shards.

    An error of this project other than CorpusError is raised.
    """
    shards = {file.name: file.read_bytes() for file in sorted(folder.glob("*.tar"))}
    for alteration in alterations(shards, count, seed):
        for name, content in alteration.files.items():
            (folder / name).write_bytes(content)
            if alteration.kind == "shard missing":
                (folder / name).unlink()
        splits = {name.split("-")[0] for name in alteration.files}
        yield Outcome(
            alteration.kind,
            verify=_raises(lambda: verify(folder)),
            open_corpus=_raises(partial(read_all, folder, *splits)),
            webdataset=_webdataset_raises([str(folder / name) for name in shards]),
        )
        for name in alteration.files:
            (folder / name).write_bytes(shards[name])


def read_all(folder: Path, *splits: str) -> None:
    """Open splits and read everything in them."""
    for split in splits:
        stream = open_corpus(folder, split)
        stream.read(0, stream.num_tokens)
        starts = np.arange(0, stream.num_tokens - 64, 64)
        stream.read_rows(starts, np.empty((len(starts), 65), dtype=np.int64))
        for shard in range(len(stream.shard_names)):
            stream.document_starts(shard)


def table(found: list[Outcome]) -> str:
    """Return the number of alterations of each kind that are noticed, as lines of text."""
    rows = [("alteration", "made", "verify", "opening", "webdataset")]
    for kind in [*KINDS, "all"]:
        some = [outcome for outcome in found if kind in (outcome.kind, "all")]
        counts = [len(some), *(sum(getattr(o, who) for o in some) for who in ("verify", "open_corpus", "webdataset"))]
        rows.append((kind, *map(str, counts)))  # type: ignore[arg-type]
    return "\n".join(f"{name:<32}" + "".join(f"{cell:>12}" for cell in cells) for name, *cells in rows)


def _raises(call: Callable[[], object]) -> bool:
    try:
        call()
    except CorpusError:
        return True
    return False


def _webdataset_raises(urls: list[str]) -> bool:
    """Whether webdataset, with its defaults, raises anything while it reads and decodes all samples."""
    try:
        for _ in wds.WebDataset(urls, shardshuffle=False).decode():
            pass
    except Exception:  # noqa: BLE001 (whatever it raises is noticed)
        return True
    return False


@dataclass(frozen=True)
class _Sample:
    """A pair of members in a shard: where their headers, their arrays and the next header are."""

    tokens_at: int
    lens_at: int
    end: int

    def arrays(self, data: bytes) -> tuple[range, range]:
        """The bytes of the tokens and of the lengths, without headers and padding."""
        tokens_bytes = int(data[self.tokens_at + 124 : self.tokens_at + 135], 8)
        lens_bytes = int(data[self.lens_at + 124 : self.lens_at + 135], 8)
        skip = BLOCK_BYTES + NPY_HEADER_BYTES
        return (
            range(self.tokens_at + skip, self.tokens_at + BLOCK_BYTES + tokens_bytes),
            range(self.lens_at + skip, self.lens_at + BLOCK_BYTES + lens_bytes),
        )


@lru_cache
def _samples(data: bytes) -> list[_Sample]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        starts = [member.offset for member in tar.getmembers()]
        ends = [*starts[1:], tar.offset - BLOCK_BYTES]
    return [_Sample(*places) for places in zip(starts[::2], starts[1::2], ends[1::2], strict=True)]


def _one(change: Callable[[random.Random, bytes], bytes]) -> Callable[[random.Random, Files], Files]:
    """An alteration of one shard."""

    def alter(draw: random.Random, shards: Files) -> Files:
        name = draw.choice(sorted(shards))
        return {name: change(draw, shards[name])}

    return alter


def _flip(draw: random.Random, data: bytes, among: range) -> bytes:
    at = draw.choice(among)
    return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]


def _header(draw: random.Random, data: bytes) -> int:
    sample = draw.choice(_samples(data))
    return draw.choice([sample.tokens_at, sample.lens_at])


def _overwrite(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new[: len(data) - at] + data[at + len(new) :]


def _zero(draw: random.Random, data: bytes, at: int) -> bytes:
    return _overwrite(data, at, bytes(BLOCK_BYTES * draw.choice([1, 1, 2, 5])))


def _block(draw: random.Random, data: bytes) -> int:
    return draw.randrange(len(data) // BLOCK_BYTES) * BLOCK_BYTES


def _cut_between(draw: random.Random, data: bytes) -> bytes:
    sample = draw.choice(_samples(data))
    return data[: draw.choice([sample.lens_at, sample.end])]


def _without_member(draw: random.Random, data: bytes) -> bytes:
    sample = draw.choice(_samples(data))
    start, end = draw.choice([(sample.tokens_at, sample.lens_at), (sample.lens_at, sample.end)])
    return data[:start] + data[end:]


def _without_sample(draw: random.Random, data: bytes) -> bytes:
    sample = draw.choice(_samples(data))
    return data[: sample.tokens_at] + data[sample.end :]


def _sample_twice(draw: random.Random, data: bytes) -> bytes:
    sample = draw.choice(_samples(data))
    return data[: sample.end] + data[sample.tokens_at :]


def _samples_swapped(draw: random.Random, data: bytes) -> bytes:
    one, other = sorted(draw.sample(_samples(data), 2), key=lambda sample: sample.tokens_at)
    parts = [data[other.tokens_at : other.end], data[one.end : other.tokens_at], data[one.tokens_at : one.end]]
    return data[: one.tokens_at] + b"".join(parts) + data[other.end :]


def _block_twice(draw: random.Random, data: bytes) -> bytes:
    at = _block(draw, data)
    return data[: at + BLOCK_BYTES] + data[at:]


def _block_elsewhere(draw: random.Random, data: bytes) -> bytes:
    at = _block(draw, data)
    return _overwrite(data, _block(draw, data), data[at : at + BLOCK_BYTES])


def _bytes_inserted(draw: random.Random, data: bytes) -> bytes:
    at = draw.randrange(len(data) + 1)
    return data[:at] + draw.randbytes(draw.randint(1, 600)) + data[at:]


def _bytes_lost(draw: random.Random, data: bytes) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + data[at + draw.randint(1, 600) :]


def _shards_swapped(draw: random.Random, shards: Files) -> Files:
    one, other = draw.sample(sorted(shards), 2)
    return {one: shards[other], other: shards[one]}


KINDS: dict[str, Callable[[random.Random, Files], Files]] = {
    "cut anywhere": _one(lambda draw, data: data[: draw.randrange(1, len(data))]),
    "cut between two members": _one(_cut_between),
    "cut inside a header": _one(lambda draw, data: data[: _header(draw, data) + draw.randrange(1, BLOCK_BYTES)]),
    "bit flipped anywhere": _one(lambda draw, data: _flip(draw, data, range(len(data)))),
    "bit flipped in a header": _one(
        lambda draw, data: _flip(draw, data, range((at := _header(draw, data)), at + BLOCK_BYTES))
    ),
    "bit flipped in a .npy header": _one(
        lambda draw, data: _flip(draw, data, range((at := _header(draw, data) + BLOCK_BYTES), at + NPY_HEADER_BYTES))
    ),
    "bit flipped in tokens": _one(lambda draw, data: _flip(draw, data, draw.choice(_samples(data)).arrays(data)[0])),
    "bit flipped in lengths": _one(lambda draw, data: _flip(draw, data, draw.choice(_samples(data)).arrays(data)[1])),
    "header zeroed": _one(lambda draw, data: _overwrite(data, _header(draw, data), bytes(BLOCK_BYTES))),
    "blocks zeroed": _one(lambda draw, data: _zero(draw, data, _block(draw, data))),
    "bytes appended": _one(lambda draw, data: data + draw.randbytes(draw.randint(1, 3000))),
    "zeros appended": _one(lambda draw, data: data + bytes(draw.choice([1, BLOCK_BYTES, 20 * BLOCK_BYTES]))),
    "bytes inserted": _one(_bytes_inserted),
    "bytes lost": _one(_bytes_lost),
    "block repeated": _one(_block_twice),
    "block in the place of another": _one(_block_elsewhere),
    "member removed": _one(_without_member),
    "sample removed": _one(_without_sample),
    "sample repeated": _one(_sample_twice),
    "two samples swapped": _one(_samples_swapped),
    "two shards swapped": _shards_swapped,
    "shard emptied": _one(lambda draw, data: b""),
    "shard missing": _one(lambda draw, data: b""),
}


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        print(table(list(outcomes(write_corpus(Path(folder) / "corpus")))))


if __name__ == "__main__":
    main()
