"""Verification of a corpus: read every byte of it, and list all that is not as it was written."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foretrain import limits
from foretrain.configs.data import CacheConfig
from foretrain.data_pipeline.corpus.check import check_sha256, check_size
from foretrain.data_pipeline.corpus.index import Index
from foretrain.data_pipeline.corpus.manifest import MANIFEST, SPLITS, TOKENIZER, Manifest, index_name, sha256_of
from foretrain.data_pipeline.corpus.opening import open_store
from foretrain.data_pipeline.corpus.store import Store
from foretrain.data_pipeline.corpus.structure import check_structure
from foretrain.data_pipeline.errors import REMEDY, CorpusError
from foretrain.progress import Advance, byte_progress

READ_BYTES = 1 << 20


def read_manifest(store: Store, sha256: str | None = None) -> Manifest:
    """Return the manifest of a corpus, after telling the store what it says of the files.

    Raises CorpusError if there is no manifest, it cannot be used, or its file does not have the given SHA-256.
    """
    if sha256 is not None and (found := sha256_of(store.path(MANIFEST))) != sha256:
        raise CorpusError(
            f"{store.url}/{MANIFEST} has the SHA-256 {found}, and the config asks for {sha256}: it is another corpus. "
            "Bring back that one, or change data.sha256 (or data.sources.NAME.sha256)"
        )
    if store.is_local:
        manifest = Manifest.read(Path(store.url))
    else:
        manifest = Manifest.parse(store.read(MANIFEST), f"{store.url}/{MANIFEST}")
    store.expect(TOKENIZER, None, manifest.tokenizer_sha256, limits.TOKENIZER_BYTES)
    for split, info in manifest.splits.items():
        store.expect(index_name(split), None, info.index_sha256, Index.max_bytes(info))
        for shard in info.shards:
            store.expect(shard.name, shard.size_bytes, shard.sha256)
    return manifest


def verify(
    corpus: str | Path | Store, progress: bool = False, cache: CacheConfig | None = None, sha256: str | None = None
) -> Manifest:
    """Return the manifest of a corpus after reading every byte; raise CorpusError with a line for each damaged file.

    The checksums alone find all damage. The structure is checked before them, because it gives the byte.
    """
    store = corpus if isinstance(corpus, Store) else open_store(corpus, cache)
    manifest = read_manifest(store, sha256)
    faults: list[str] = []
    with _collect(faults, f"{store.url}/{TOKENIZER}"):
        check_sha256(store.path(TOKENIZER), manifest.tokenizer_sha256)
    num_bytes = sum(shard.size_bytes for info in manifest.splits.values() for shard in info.shards)
    with byte_progress(f"verifying {store.url}", num_bytes, enabled=progress) as advance:
        for split, info in manifest.splits.items():
            index = None
            with _collect(faults, f"{store.url}/{index_name(split)}"):
                check_sha256(store.path(index_name(split)), info.index_sha256)
                index = Index.open(store.path(index_name(split)), info)
            for number, shard in enumerate(info.shards):
                with _collect(faults, f"{store.url}/{shard.name}"):
                    _verify_shard(store, manifest, split, number, index, advance)
    faults += _unknown_shards(store, manifest)
    if faults:
        raise CorpusError("\n".join(faults))
    return manifest


def _verify_shard(
    store: Store, manifest: Manifest, split: str, number: int, index: Index | None, advance: Advance
) -> None:
    shard = manifest.splits[split].shards[number]
    path = f"{store.url}/{shard.name}"
    with os.fdopen(store.open(shard.name), "rb", buffering=0) as file:
        check_size(path, os.fstat(file.fileno()).st_size, shard)
        if index is not None:
            check_structure(file.fileno(), path, index, split, number, manifest.dtype)
        digest = hashlib.sha256()
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
            advance(len(chunk))
    if digest.hexdigest() != shard.sha256:
        raise CorpusError(f"{path} has other bytes than were written (SHA-256): {REMEDY}")


def _unknown_shards(store: Store, manifest: Manifest) -> Iterator[str]:
    """Yield a message for each shard of a local corpus that is not in the manifest."""
    if not store.is_local:
        return
    known = {shard.name for info in manifest.splits.values() for shard in info.shards}
    for split in SPLITS:  # the shards of named sets begin with "val-", too
        for file in sorted(Path(store.url).glob(f"{split}-*.tar")):
            if file.name not in known:
                yield f"{file} is not in the manifest: remove it"


@contextmanager
def _collect(faults: list[str], path: str) -> Iterator[None]:
    """Add the error of a file to the list, instead of raising it."""
    try:
        yield
    except CorpusError as error:
        faults.append(str(error))
    except OSError as error:
        faults.append(f"{path} cannot be read ({error.strerror}): {REMEDY}")
